"""What a node does because it has certificates: its control port, introductions, renewal, credentials for its client processes.

Covers putting those together and their life. Not: pages, clients and rounds (`daemon`), which work without all this too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ramster.cluster.static import NODES_MAX
from ramster.config import addresses, file
from ramster.errors import RamsterError, RefusedError, StartError
from ramster.node import rotation
from ramster.node.admission import Admission, Own
from ramster.node.clients import Client
from ramster.node.control import ControlPort
from ramster.node.introductions import Introductions
from ramster.node.peers import PEERS_MAX, Peer, Peers
from ramster.node.trust import Issued, Trust
from ramster.security import authority, files, names

log = logging.getLogger("ramster.node")

# New files are in force a second after they were written.
WATCH_S = 1.0
# A node renews within an hour of its certificate's half-life, half a year before its end; so often it tries again, too.
RENEW_EVERY_S = 3600.0


class ClusterSide:
    """The cluster as one node sees it. Without certificates a node has none of this."""

    def __init__(self, found: file.File) -> None:
        """Raises ConfigError when the certificates cannot be used."""
        assert found.node is not None
        assert found.cluster.dir is not None
        assert found.cluster.authority is not None
        self._table, self._authority, self._path = found.node, found.cluster.authority, found.path
        self._nodes_max = NODES_MAX if found.cluster.membership == "static" else PEERS_MAX
        directory = files.Directory(found.cluster.dir)
        self.trust = Trust(directory, found.node.id, found.path)
        self.peers = Peers(directory, found.node.id)
        self._issued: dict[Client, Issued] = {}
        self._saving = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self.port: ControlPort | None = None
        self.introductions: Introductions | None = None

    def open(
        self,
        listen: str,
        *,
        learn: Callable[[int, str], object],
        status: Callable[[], dict[str, Any]],
        changed: Callable[[dict[str, str]], object],
    ) -> None:
        """Opens the control port and starts to make this node known. `listen` is where it has its page port.

        `learn` is called with the id and page address of each new or moved peer, `changed` with new credentials.
        Raises StartError when the port cannot be had.
        """
        self._learn, self._changed = learn, changed
        own = Peer(self._table.id, listen, self._open_port(status, listen))
        if self.port is not None:
            self.introductions = Introductions(own, self.peers, self.trust, self._learnt)
            self._tasks.append(asyncio.create_task(self.introductions.run()))
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
            self._changed(self.trust.credentials.plain())

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
        return {"authority": self._authority, **self.trust.status(), **port}

    def _open_port(self, status: Callable[[], dict[str, Any]], listen: str) -> str:
        if self._table.control is None:
            return ""
        host, number = addresses.split(self._table.control, of=f"{self._path}: node.control")
        own = Own(Peer(self._table.id, listen, ""), self._authority, self._nodes_max)
        port = ControlPort(lambda: self.trust.listening)
        admission = Admission(
            self.trust.directory, own, self.peers, learnt=self._learnt, status=status, count=port.count
        )
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
        self._learn(peer.node, peer.listen)
        async with self._saving:
            try:
                await asyncio.to_thread(self.peers.save)
            except RamsterError as error:
                # Known until this node restarts; the peer introduces itself again when it does.
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
                    await rotation.rotate(self.trust.directory, self._authority)
                except (RamsterError, OSError) as error:
                    log.warning("certificates are past their half-life and not renewed: %s", error)
            await asyncio.sleep(RENEW_EVERY_S)
