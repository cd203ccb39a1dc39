"""What a node does because it has certificates: its control port, introductions, renewal, credentials for its client processes,
and who is no longer a member.

Covers putting those together and their life. Not: pages, clients and rounds (`daemon`), which work without all this too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ramster.cluster.static import NODES_MAX
from ramster.config import addresses, file
from ramster.errors import RamsterError, RefusedError, StartError
from ramster.node import rotation
from ramster.node.admission import Admission, Own
from ramster.node.admission import Hooks as Answers
from ramster.node.clients import Client
from ramster.node.control import ControlPort
from ramster.node.departures import Departed, Departures
from ramster.node.introductions import Introductions
from ramster.node.passing_on import PassingOn
from ramster.node.peers import PEERS_MAX, Peer, Peers
from ramster.node.trust import Issued, Trust
from ramster.security import authority, files, names

log = logging.getLogger("ramster.cluster")

# New files are in force a second after they were written.
WATCH_S = 1.0
# A node renews within an hour of its certificate's half-life, half a year before its end; so often it tries again, too.
RENEW_EVERY_S = 3600.0


def _nothing(*_: object) -> None:
    return None


@dataclass(frozen=True)
class Hooks:
    """What the rest of the node does with what is heard: `learn` a peer's id and page address, `forget` one that is gone (with
    its life, None: revoked), `leaving` one that is about to go, `changed` credentials. `status`, `lends` and `life` are what it
    knows."""

    learn: Callable[[int, str], object]
    status: Callable[[], dict[str, Any]]
    changed: Callable[[dict[str, str]], object]
    forget: Callable[[int, int | None], object] = _nothing
    leaving: Callable[[int, bool], object] = _nothing
    lends: Callable[[int], dict[str, Any]] = lambda _: {"type": "lends"}
    life: Callable[[int], int | None] = _nothing


class ClusterSide:
    """The cluster as one node sees it. Without certificates a node has none of this."""

    def __init__(self, found: file.File) -> None:
        """Raises ConfigError when the certificates cannot be used."""
        assert found.node is not None
        assert found.cluster.dir is not None
        assert found.cluster.authority is not None
        self._table, self.authority, self._path = found.node, found.cluster.authority, found.path
        self._nodes_max = NODES_MAX if found.cluster.membership == "static" else PEERS_MAX
        self.directory = files.Directory(found.cluster.dir)
        self.trust = Trust(self.directory, found.node.id, found.path)
        self.peers = Peers(self.directory, found.node.id)
        self.departures = Departures(self.directory, found.node.id, signs=self.signs)
        self.passing_on = PassingOn(self.peers, self.departures, self.trust)
        self._issued: dict[Client, Issued] = {}
        self._saving = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self.port: ControlPort | None = None
        self.introductions: Introductions | None = None

    @property
    def signs(self) -> bool:
        """Whether this node has the authority's key."""
        return self.authority == self._table.id

    def open(self, listen: str, hooks: Hooks) -> None:
        """Opens the control port and starts to make this node known. `listen` is where it has its page port.

        Raises StartError when the port cannot be had.
        """
        self._hooks = hooks
        own = Peer(self._table.id, listen, self._open_port(listen))
        if self.port is not None:
            self.introductions = Introductions(
                own, self.peers, self.trust, learnt=self._learnt, departed=self._heard_departed
            )
            self._tasks.append(asyncio.create_task(self.introductions.run()))
        if self.signs:
            self._tasks.append(asyncio.create_task(self.passing_on.run()))
        self._tasks.append(asyncio.create_task(self._watch()))
        self._tasks.append(asyncio.create_task(self._renew()))

    async def close(self) -> None:
        """Ends the port and all that runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.port is not None:
            await self.port.close()

    def check(self) -> None:
        """Raises what ended a task that must not end: our own bug, so the node ends loudly too."""
        for task in self._tasks:
            if task.done():
                task.result()

    def refresh(self, force: bool = False) -> None:
        """Takes new files over, if there are any."""
        if self.trust.refresh(force=force):
            self._hooks.changed(self.trust.credentials.plain())

    def credentials_for(self, client: Client) -> dict[str, Any]:
        """The first credentials of a client process. Raises RefusedError when its number is none."""
        family = names.family_of(client.client)
        if family is None:
            raise RefusedError("register: client must be a number of 32 hexadecimal digits")
        plain, self._issued[client] = self.trust.issue(family, authority.utc_now())
        return plain

    def renewed_for(self, client: Client) -> dict[str, Any] | None:
        """New credentials when a client process needs them, otherwise None."""
        issued = self._issued.get(client)
        now = authority.utc_now()
        if issued is None or not self.trust.is_due(issued, now):
            return None
        plain, self._issued[client] = self.trust.issue(issued.family, now)
        return plain

    def left(self, client: Client) -> None:
        """The client process is gone."""
        self._issued.pop(client, None)

    def status(self) -> dict[str, Any]:
        """For `ramster status --json`."""
        port = {"control": self.port.address, "control_counts": self.port.stats()} if self.port else {}
        departed = self.departures.plain()
        gone = {"revoked": departed["revoked"], "left": [node for node, _ in departed["left"]]}
        return {"authority": self.authority, **gone, **self.trust.status(), **port}

    def knows(self, node: int) -> bool:
        """Whether this node has an id of the cluster, as far as is known here."""
        given = self.directory.read_json(files.MEMBERS, default={}) if self.signs else {}
        return self.peers.get(node) is not None or node in self.departures or str(node) in given

    async def revoke(self, node: int) -> None:
        """On the node that signs: `node` is gone for good. The others hear of it by and by. Raises RefusedError."""
        if self.departures.revoke(node):
            await self.gone([Departed(node, None)])

    async def gone(self, departed: Iterable[Departed]) -> None:
        """These are members no more; written down, and on the node that signs passed on."""
        for one in departed:
            self.peers.forget(one.node)
            if self.introductions is not None:
                self.introductions.forget(one.node)
            self._hooks.forget(one.node, one.life)
        await self._save()
        self.passing_on.news.set()

    def _open_port(self, listen: str) -> str:
        if self._table.control is None:
            return ""
        host, number = addresses.split(self._table.control, of=f"{self._path}: node.control")
        own = Own(Peer(self._table.id, listen, ""), self.authority, self._nodes_max)
        port = ControlPort(lambda: self.trust.listening)
        hooks, count = self._hooks, port.count
        answers = Answers(self._learnt, self._departed, hooks.leaving, hooks.status, hooks.lends, count)
        admission = Admission(self.directory, own, self.peers, self.departures, answers)
        try:
            port.open("127.0.0.1" if host == "localhost" else host, number, admission.answer)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            where = f"{self._path}: node.control: cannot listen on {self._table.control} ({why})"
            raise StartError(f"{where}; choose a free port of this machine") from None
        own.peer = Peer(self._table.id, listen, port.address)
        self.port = port
        return port.address

    async def _learnt(self, peer: Peer) -> None:
        log.info("peer %d is at %s, control port %s", peer.node, peer.listen, peer.control)
        self._hooks.learn(peer.node, peer.listen)
        await self._save()

    async def _heard_departed(self, speaker: int, message: object) -> Departures:
        """What came along with the answer to an introduction: it counts from the node that signs alone. Raises RefusedError."""
        if message is not None and speaker == self.authority:
            await self._departed(self.departures.hear(message))
        return self.departures

    async def _departed(self, news: list[Departed]) -> None:
        """Somebody says so who may. Who has come back since, in a later life, stays."""
        still = []
        for one in news:
            life = self._hooks.life(one.node)
            if one.life is not None and life is not None and life > one.life:
                self.departures.back(one.node)
            else:
                still.append(one)
        await self.gone(still)

    async def _save(self) -> None:
        async with self._saving:
            try:
                await asyncio.to_thread(self.peers.save)
                if self.departures.version or self.departures.left or self.directory.has(files.DEPARTED):
                    await asyncio.to_thread(self.departures.save)
            except RamsterError as error:
                # Known until this node restarts; a peer introduces itself again when it does, and who is gone is passed on again.
                if self.port is not None:
                    self.port.count("peers_not_saved")
                log.error("%s", error)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            self.refresh()

    async def _renew(self) -> None:
        while True:
            mine = self.trust.credentials
            first = min(authority.half_life(mine.own.certificate), authority.half_life(mine.clients.certificate))
            if authority.utc_now() >= first:
                try:
                    await rotation.rotate(self.trust.directory, self.authority)
                except (RamsterError, OSError) as error:
                    log.warning("certificates are past their half-life and not renewed: %s", error)
            await asyncio.sleep(RENEW_EVERY_S)
