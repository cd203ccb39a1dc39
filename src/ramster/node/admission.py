"""What the control port answers: `authority` and `join` to strangers; `introduce`, `renew`, `status`, `lends`, `leave` and
`departed` to nodes of this cluster.

Covers who may have which certificate and which id, and who may say that who is gone. Not: links and their limits (`control`),
tokens as such (`security.tokens`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ramster.errors import RamsterError, RefusedError
from ramster.node.control import EndLinkError
from ramster.node.departures import LIFE_MAX, Departed, Departures
from ramster.node.limits import Bucket
from ramster.node.peers import PEERS_MAX, Peer, Peers, read_address, read_peer
from ramster.security import authority, credentials, files, names, tokens

# A join costs two signatures and three writes to disk. A token cannot be guessed; this is for the disk's sake.
JOINS_PER_S, JOINS_BURST = 2.0, 10
JOINS_AT_ONCE = 4
# A node introduces itself when it starts and when it moved; each news is a write to disk.
MEMBER_ASKS_PER_S, MEMBER_ASKS_BURST = 2.0, 20


@dataclass
class Own:
    """This node as others are told of it, who signs, and how many nodes the cluster's membership is for."""

    peer: Peer
    authority: int
    nodes_max: int = PEERS_MAX


@dataclass
class Hooks:
    """What the answers lead to. `learnt` is awaited with each peer that is new or moved, `departed` with who is gone; `leaving`
    hears who is about to leave or stays after all; `status` is the node's, `lends` what it tells a node of what it holds."""

    learnt: Callable[[Peer], Awaitable[None]]
    departed: Callable[[list[Departed]], Awaitable[None]]
    leaving: Callable[[int, bool], object]
    status: Callable[[], dict[str, Any]]
    lends: Callable[[int], dict[str, Any]]
    count: Callable[[str], None]


class Admission:
    """The answers of one node."""

    def __init__(
        self,
        directory: files.Directory,
        own: Own,
        peers: Peers,
        departures: Departures,
        hooks: Hooks,
    ) -> None:
        self._directory, self._own, self._peers, self._departures = directory, own, peers, departures
        self._hooks, self._learnt, self._count = hooks, hooks.learnt, hooks.count
        self._joins = Bucket(JOINS_PER_S, JOINS_BURST)
        self._joining = 0
        self._asks: dict[int, Bucket] = {}

    async def answer(self, message: dict[str, Any], caller: int | None) -> dict[str, Any]:
        """The answer to a node (`caller`) or a stranger (None). Raises RefusedError for a no, EndLinkError for no question."""
        kind = message.get("type")
        if caller is None:
            if kind == "authority":
                return self._authority()
            if kind == "join":
                return await self._join(message)
            raise EndLinkError("ended_not_for_strangers")
        if caller in self._departures.revoked:
            raise EndLinkError("ended_revoked")
        if not self._asks.setdefault(caller, Bucket(MEMBER_ASKS_PER_S, MEMBER_ASKS_BURST)).take(time.monotonic()):
            self._count("member_over_rate")
            raise RefusedError("too many questions; ask again in a second")
        match kind:
            case "introduce":
                answer = await self._introduce(message, caller)
            case "renew":
                answer = await asyncio.to_thread(self._renew, message, caller)
            case "status":
                answer = self._hooks.status()
            case "lends":
                answer = self._hooks.lends(caller)
            case "leave":
                answer = await self._leave(message, caller)
            case "departed":
                answer = await self._departed(message, caller)
            case _:
                raise EndLinkError("ended_bad_message")
        return answer

    def _authority(self) -> dict[str, Any]:
        """Who signs here, for somebody with a token: the certificate is public, and checked against the token's pin."""
        signer = self._own.authority
        found = self._own.peer if signer == self._own.peer.node else self._peers.get(signer)
        roots = self._directory.read(files.ROOTS, private=False)
        return {"type": "authority", "roots": roots, "signer": signer, "control": found.control if found else None}

    async def _join(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._own.authority != self._own.peer.node:
            self._count("join_refused_not_signer")
            signer = self._peers.get(self._own.authority)
            where = f" at {signer.control}" if signer else ""
            raise RefusedError(f"this node does not sign; ask node {self._own.authority}{where}")
        if self._joining >= JOINS_AT_ONCE or not self._joins.take(time.monotonic()):
            self._count("join_refused_busy")
            raise RefusedError("too many joins at once; try again in some seconds")
        self._joining += 1
        try:
            answer, peer = await asyncio.to_thread(self._admit, message)
            # In this thread: the loop alone changes what is known of peers.
            known = [self._own.peer.plain(), *self._peers.plain()]
            if self._peers.introduced(peer):
                await self._learnt(peer)
        finally:
            self._joining -= 1
        self._count("joined")
        return {**answer, "peers": known}

    def _admit(self, message: dict[str, Any]) -> tuple[dict[str, Any], Peer]:
        """Everything is checked before the token is spent, and it is spent on disk before anything is signed."""
        listen, control = read_address(message.get("listen")), read_address(message.get("control"))
        key = authority.read_request(message.get("request"))
        clients_key = authority.read_request(message.get("clients_request"))
        wanted = message.get("node")
        if wanted is not None and (type(wanted) is not int or not 1 <= wanted <= names.NODE_MAX):
            raise RefusedError("the id that is wanted is no node's id")
        try:
            signer = credentials.load_authority(self._directory)
            with self._directory.locked():
                node = self._spend(message, wanted, listen, control)
        except RefusedError:
            raise
        except RamsterError as error:
            self._count("join_refused_own_fault")
            raise RefusedError(f"the node that signs has a problem of its own: {error}") from None
        now = authority.utc_now()
        answer = {
            "type": "joined",
            "node": node,
            "certificate": authority.pem(authority.sign_node(signer, key, node, now)),
            "clients": authority.pem(authority.sign_client_authority(signer, clients_key, node, now)),
        }
        return answer, Peer(node, listen, control)

    def _spend(self, message: dict[str, Any], wanted: int | None, listen: str, control: str) -> int:
        now_s = time.time()
        entries = self._directory.read_json(files.TOKENS, default={}).get("tokens", [])
        kept, outcome = tokens.spend(entries, message.get("token"), message.get("secret"), now_s)
        if outcome != tokens.GOOD:
            self._count(f"join_refused_token_{outcome}")
            if len(kept) != len(entries):
                self._directory.write_json(files.TOKENS, {"tokens": kept})
            raise RefusedError(tokens.WHY[outcome])
        members = self._directory.read_json(files.MEMBERS, default={})
        node = self._free_id(members, wanted)
        self._directory.write_json(files.TOKENS, {"tokens": kept})
        members[str(node)] = {"listen": listen, "control": control, "joined_s": int(now_s)}
        self._directory.write_json(files.MEMBERS, members)
        return node

    def _free_id(self, members: dict[str, Any], wanted: int | None) -> int:
        """An id is never given twice: the certificate of whoever had it before is still good."""
        departed = {*self._departures.revoked, *self._departures.left}
        taken = {self._own.peer.node, *(peer.node for peer in self._peers), *(int(name) for name in members), *departed}
        if len(taken) >= PEERS_MAX:
            self._count("join_refused_full")
            raise RefusedError(f"the cluster has {PEERS_MAX} nodes, which is the most")
        known = 1 + sum(1 for _ in self._peers)
        if known >= self._own.nodes_max:
            self._count("join_refused_full")
            cure = 'write membership = "etcd" in [cluster] of all nodes'
            raise RefusedError(f"the cluster has {known} nodes, the most that its membership is for; {cure}")
        if wanted is None:
            return max(taken) + 1
        if wanted in taken:
            self._count("join_refused_id")
            raise RefusedError(f"id {wanted} is taken; leave --id out, and a free one is given")
        return wanted

    async def _introduce(self, message: dict[str, Any], caller: int) -> dict[str, Any]:
        peer = read_peer(message)
        if peer.node != caller:
            self._count("introduce_refused_name")
            raise RefusedError(f"node {caller} cannot introduce node {peer.node}")
        self._hooks.leaving(caller, False)
        if self._departures.back(caller):
            await self._hooks.departed([])
        if self._peers.introduced(peer):
            await self._learnt(peer)
        self._count("introduced")
        answer = {"type": "introduced", **self._own.peer.plain(), "peers": self._peers.plain()}
        return {**answer, "departed": self._departures.plain()} if self._signs() else answer

    def _signs(self) -> bool:
        return self._own.authority == self._own.peer.node

    async def _leave(self, message: dict[str, Any], caller: int) -> dict[str, Any]:
        """The caller is about to leave, leaves for good, or stays after all: of itself alone it may say that."""
        phase, life = message.get("phase"), message.get("incarnation")
        if phase not in ("draining", "left", "stays") or type(life) is not int or not 0 <= life <= LIFE_MAX:
            raise EndLinkError("ended_bad_message")
        if phase == "left":
            if self._departures.leave(caller, life):
                await self._hooks.departed([Departed(caller, life)])
                self._count("left")
        else:
            self._hooks.leaving(caller, phase == "draining")
        return {"type": "heard"}

    async def _departed(self, message: dict[str, Any], caller: int) -> dict[str, Any]:
        """Who is gone, from the node that signs and nobody else."""
        if caller != self._own.authority:
            self._count("departed_refused_not_signer")
            raise RefusedError(f"node {caller} does not sign; who is gone node {self._own.authority} says")
        await self._hooks.departed(self._departures.hear(message))
        return {"type": "heard"}

    def _renew(self, message: dict[str, Any], caller: int) -> dict[str, Any]:
        """A new certificate for the name that the caller has proved to have, and no other."""
        if self._own.authority != self._own.peer.node:
            raise RefusedError(f"this node does not sign; ask node {self._own.authority}")
        key = authority.read_request(message.get("request"))
        clients_key = authority.read_request(message.get("clients_request"))
        try:
            signer = credentials.load_authority(self._directory)
        except RamsterError as error:
            raise RefusedError(f"the node that signs has a problem of its own: {error}") from None
        now = authority.utc_now()
        self._count("renewed")
        return {
            "type": "renewed",
            "certificate": authority.pem(authority.sign_node(signer, key, caller, now)),
            "clients": authority.pem(authority.sign_client_authority(signer, clients_key, caller, now)),
        }
