"""Where this node stands in its cluster: its membership with what runs it, what it announces, and what it lends with and
without quorum.

Not: what members' states mean (`cluster`), or what clients are told (`policy.directives`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from ramster import _native
from ramster.cluster.membership import Announcement, Change, Member, Membership, Quorum, State, Timing, view
from ramster.cluster.registry import Registry, lease_s
from ramster.cluster.static import NODES_MAX, Static
from ramster.config import addresses, machine
from ramster.config.file import File, NodeTable
from ramster.node.heartbeats import Heartbeats, now_ms
from ramster.policy import lending

log = logging.getLogger("ramster.membership")
policy_log = logging.getLogger("ramster.policy")


@dataclass(frozen=True)
class Round:
    """What a round of the daemon needs. `changed`: clients must be told."""

    changed: bool
    peers: list[dict[str, Any]]
    quorum: Quorum


class Runner(Protocol):
    """A back end with its input and output. `news` is set when something may have changed."""

    news: asyncio.Event

    @property
    def membership(self) -> Membership: ...  # noqa: D102

    async def run(self) -> None: ...  # noqa: D102

    def learn(self, node: int, address: str) -> bool: ...  # noqa: D102

    def latency_us(self, node: int) -> int | None: ...  # noqa: D102


# The credentials in force, as the native part takes them.
CredentialsNow = Callable[[], dict[str, str]]


def _runner(found: File, own: Announcement, credentials: CredentialsNow | None, gone: Collection[int]) -> Runner:
    table, timing = found.cluster, Timing(found.cluster.death_ms)
    if table.membership == "etcd":
        # Imported here: an HTTP client is what no other node needs.
        from ramster.node.registration import Registration
        from ramster.transport.etcd import Etcd

        store = Etcd(table, deadline_ms=lease_s(timing) * 1000 // 3)
        return Registration(Registry(own, cluster=table.name, timing=timing, now_ms=now_ms()), store)
    for peer in found.peers:
        if peer.id in gone:
            log.warning("%s: peer %d has left the cluster for good; take it out of [[peers]]", found.path, peer.id)
    listed = [
        (peer.id, addresses.numeric(peer.address, of=f"{found.path}: peers.address"))
        for peer in found.peers
        if peer.id not in gone
    ]
    return Heartbeats(Static(own, listed, timing=timing, now_ms=now_ms(), path=found.path), credentials)


class Standing:
    """One node in its cluster, from its file. `credentials`: those in force, None for a node without. `gone`: who left for good,
    and in which life (None: revoked).

    Raises ConfigError.
    """

    def __init__(
        self,
        found: File,
        node: NodeTable,
        credentials: CredentialsNow | None = None,
        gone: Mapping[int, int | None] = MappingProxyType({}),
    ) -> None:
        self._offer_bytes = node.offer_bytes
        self._own = Announcement(node.id, node.listen, 0, node.offer_bytes, node.offer_bytes)
        self._held: bool | None = None
        # Nodes that said they are about to leave: they get no new pages. This one may be among them.
        self._leaving: set[int] = set()
        self._revoked = {node for node, life in gone.items() if life is None}
        self._reserve_bytes: int | None = None
        self._regrouped = False
        self._offered_bytes = self._told_bytes = node.offer_bytes
        self._lending = lending.begin(node.offer_bytes, now_ms())
        self._runner = _runner(found, self._own, credentials, gone)
        self.membership: Membership = self._runner.membership
        for departed, life in gone.items():
            self.membership.forget(departed, life)

    async def run(self, server: _native.Server) -> None:
        """Takes part in the cluster, as who `server` is, until it is cancelled."""
        self._own = Announcement(
            self._own.id, server.address, server.incarnation, self._offer_bytes, self._own.free_bytes
        )
        self.membership.announce(self._own)
        await self._runner.run()

    def learn(self, node: int, address: str) -> None:
        """A node was introduced, by itself or by one that knows it: a member from now on, or one that may have moved."""
        if not self._runner.learn(node, address):
            log.warning(
                'peer %d (%s) is no member: %d nodes are the most that membership = "static" is for; use "etcd"',
                node, address, NODES_MAX,
            )  # fmt: skip

    def forget(self, node: int, life: int | None) -> None:
        """A node left for good, in that life (None: whatever life, its certificate is revoked)."""
        self.membership.forget(node, life)
        self._leaving.discard(node)
        if life is None:
            self._revoked.add(node)
        self._regroup()
        log.info("peer %d is no member any more: %s", node, "it was forgotten" if life is None else "it left")

    def leaving(self, node: int, *, is_leaving: bool) -> None:
        """A node is about to leave, or stays after all. Its own id: this one lends nothing meanwhile."""
        if is_leaving != (node in self._leaving):
            (self._leaving.add if is_leaving else self._leaving.discard)(node)
            self._regroup()

    def life(self, node: int) -> int | None:
        """The last known life of a member."""
        return next((member.incarnation for member in self.membership.members() if member.id == node), None)

    def latency_us(self, node: int) -> int | None:
        """How long the member took to answer its last heartbeat, with opening a link to it. None: not known."""
        return self._runner.latency_us(node)

    def _regroup(self) -> None:
        self._regrouped = True
        self._runner.news.set()

    async def news(self, within_ms: int) -> None:
        """Returns when something may have changed, after `within_ms` at the latest."""
        try:
            async with asyncio.timeout(within_ms / 1000):
                await self._runner.news.wait()
        except TimeoutError:
            pass
        self._runner.news.clear()

    def round(self, server: _native.Server) -> Round:
        """Looks at what has changed, says it, and offers what may be lent now."""
        self.membership.tick(now_ms())
        changes, quorum = self.membership.changes(), self.membership.quorum()
        members = {member.id: member for member in self.membership.members()}
        for change in changes:
            _tell(change, members[change.id])
        if self._held is not None and quorum.held != self._held:
            if quorum.held:
                log.info("quorum is back (%s): lends and remotifies again", quorum.reason)
            else:
                log.warning(
                    "quorum is lost (%s): lends nothing more and remotifies nothing, keeps what it holds", quorum.reason
                )
        changed = any(change.matters for change in changes) or quorum.held != self._held or self._regrouped
        self._held, self._regrouped = quorum.held, False
        self._offer(server, quorum)
        return Round(changed, self.peers()[0], quorum)

    def peers(self) -> tuple[list[dict[str, Any]], Quorum]:
        """For a client that has just come."""
        staying = [member for member in self.membership.members() if member.id not in self._leaving]
        return view(staying), self.membership.quorum()

    def lend_at_most(self, offer_bytes: int) -> None:
        """In the place of what the file says; from the next round on."""
        self._offer_bytes = offer_bytes

    @property
    def limit_bytes(self) -> int:
        """What is offered at most."""
        return self._offer_bytes

    def reserve(self, reserve_bytes: int | None) -> None:
        """What the machine keeps for itself in the place of policy's share (None); from the next round on."""
        self._reserve_bytes = reserve_bytes

    def silent(self) -> list[int] | None:
        """Ids of the nodes that are down. None without quorum: then it may be this node that is not heard."""
        if not self.membership.quorum().held:
            return None
        down = [member.id for member in self.membership.members() if member.state == State.DOWN]
        return sorted({*down, *self._revoked})

    def nodes(self, server: _native.Server) -> list[dict[str, Any]]:
        """As `ramster status` shows them: this one first."""
        own = Member(self._own.id, server.address, State.UP, server.incarnation, self._offered_bytes).as_dict()
        if self._offered_bytes < self._offer_bytes:
            own["reason"] = self._lending.reason if self.membership.quorum().held else "no quorum"
        own["foreign_bytes"] = sum(owner["bytes"] for owner in server.stats()["clients"])
        found = [own, *(member.as_dict() for member in self.membership.members())]
        for node in found:
            if node["id"] in self._leaving and node["state"] != State.DOWN:
                node["state"], node["reason"] = "leaving", "its pages go elsewhere"
        return found

    def _offer(self, server: _native.Server, quorum: Quorum) -> None:
        """Without quorum the offer is what is held already, and follows it down: nothing new is taken, nothing is dropped."""
        used_bytes = int(server.stats()["used_bytes"])
        self._lend(used_bytes)
        follows = not quorum.held and self._own.id not in self._leaving
        offer_bytes = min(self._offered_bytes, used_bytes) if follows else self._lending.offer_bytes
        if offer_bytes != self._offered_bytes:
            server.set_offer(offer_bytes)
            self._offered_bytes = offer_bytes
        free_bytes = max(offer_bytes - used_bytes, 0)
        self.membership.announce(
            Announcement(self._own.id, server.address, server.incarnation, offer_bytes, free_bytes)
        )

    def _lend(self, used_bytes: int) -> None:
        """What the machine does not need, by policy. Said when the reason is another one."""
        memory = machine.memory()
        seen = lending.LendingSnapshot(
            memory.ram_bytes, memory.room_bytes, used_bytes, machine.pressure_percent(), self._reserve_bytes
        )
        before = self._lending
        limit_bytes = 0 if self._own.id in self._leaving else self._offer_bytes
        self._lending = lending.decide(before, seen, limit_bytes=limit_bytes, now_ms=now_ms())
        policy_log.debug("offers %d bytes of %d, %d are used: %s", self._lending.offer_bytes, limit_bytes, used_bytes,
                         self._lending.reason)  # fmt: skip
        shrinks = self._lending.offer_bytes < before.offer_bytes <= self._told_bytes
        back = self._lending.offer_bytes == self._offer_bytes != self._told_bytes
        if back or (shrinks and (self._told_bytes - self._lending.offer_bytes) * 8 > self._offer_bytes):
            self._told_bytes = self._lending.offer_bytes
            policy_log.info(
                "offers %d of %d MiB: %s", self._told_bytes >> 20, self._offer_bytes >> 20, self._lending.reason
            )


def _tell(change: Change, member: Member) -> None:
    loud = log.warning if "two nodes claim" in change.reason else log.info
    loud(
        "peer %d (%s) is %s%s%s",
        member.id,
        member.address,
        member.state,
        ", another life than before: what it held is gone" if change.reborn else "",
        f": {member.reason}" if member.reason else "",
    )
