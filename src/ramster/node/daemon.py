"""`ramster node`: an asyncio process around the native page server. Covers the admin socket and the policy's rounds.

Not: pages, which travel in native threads and never wait for this; decisions, which are `policy`; membership, which is
`standing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import stat
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from ramster import _native
from ramster.cluster.membership import Quorum
from ramster.config import addresses, file, machine, places
from ramster.errors import ConfigError, RamsterError, RefusedError, StartError
from ramster.metrics import names
from ramster.metrics.totals import Totals
from ramster.node import callers, clients, drain, leaving, survey
from ramster.node.cluster_side import ClusterSide, Hooks
from ramster.node.standing import Standing
from ramster.policy import directives, knobs, sharing
from ramster.transport import lines

if TYPE_CHECKING:
    from ramster.metrics.exposition import Figures

log = logging.getLogger("ramster.node")
clients_log = logging.getLogger("ramster.clients")
policy_log = logging.getLogger("ramster.policy")

# Often enough for the machine's pressure, which grows in seconds. A change of membership does not wait for it.
ROUND_MS = 1000
ASK_DEADLINE_MS = 2000
# A client that takes nothing for this long is not listening: its link is closed and it may come back.
SEND_DEADLINE_MS = 2000

COUNTED = tuple(name for name in _native.STAT_FIELDS if name not in names.NO_COUNTERS)
Order = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Node:
    """One node, from its file. `run` returns when it was told to stop."""

    def __init__(self, found: file.File) -> None:
        if found.node is None:
            raise ConfigError(f"{found.path}: [node] is missing; add it with id, listen, offer and socket")
        self.table = found.node
        self.side = ClusterSide(found) if found.cluster.dir is not None else None
        gone = self.side.departures.lives() if self.side else {}
        self.standing = Standing(found, self.table, self.side.trust.plain if self.side else None, gone)
        for peer in self.side.peers if self.side else ():
            self.standing.learn(peer.node, peer.listen)
        self._path = found.path
        self.knobs = knobs.Knobs()
        # What each program may hold at peers.
        self._share_bytes = sharing.LEAST_BYTES
        self._clients: dict[clients.Client, asyncio.StreamWriter] = {}
        self._stop = asyncio.Event()
        self._totals = Totals()
        self._refused: Counter[str] = Counter()
        self._end_metrics: Callable[[], Awaitable[None]] | None = None
        is_etcd = found.cluster.membership == "etcd"
        self.leaving = leaving.Leaving(self.table.id, self.standing, self.side, self._stop, is_etcd=is_etcd)

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT, then until owners have taken their pages away (a second signal ends that).

        Raises StartError when the port or the socket cannot be had.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        listen = self._listen_address()
        _make_way(self.table.socket)
        credentials = self.side.trust.credentials.plain() if self.side else None
        try:
            self.server = _native.Server(listen, self.table.id, self.table.offer_bytes, credentials=credentials)
        except (OSError, RamsterError) as error:
            raise StartError(
                f"{self._path}: node.listen: cannot listen on {listen} ({error}); choose a free port of this machine"
            ) from None
        try:
            admin = await self._admin()
            if self.side:
                loop.add_signal_handler(signal.SIGHUP, self.side.refresh, True)
                self.server.set_revoked(sorted(self.side.departures.revoked))
                self.side.open(self.server.address, self._hooks(self.side))
            await self._serve_metrics()
            log.info("node %d serves pages on %s, offers %d MiB, admin socket %s",
                     self.table.id, self.server.address, self.table.offer_bytes >> 20, self.table.socket)  # fmt: skip
            standing = asyncio.create_task(self.standing.run(self.server))
            rounds = asyncio.create_task(self._rounds())
            stopped = asyncio.create_task(self._stop.wait())
            # A round that fails is our bug: the node ends loudly rather than go on without policy.
            await asyncio.wait({rounds, standing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for task in (rounds, standing):
                if task.done():
                    task.result()
                task.cancel()
            await asyncio.gather(rounds, standing, return_exceptions=True)
            await self._drain(loop)
            admin.close()
            if self.side:
                await self.side.close()
            for writer in self._clients.values():
                writer.close()
            if self._end_metrics is not None:
                await self._end_metrics()
            self.leaving.wipe()
            log.info("node %d stops", self.table.id)
        finally:
            _unlink(self.table.socket)
            self.server.stop()

    async def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.leaving.is_gone:
            return
        hurry = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, hurry.set)
        await drain.drain(self.server, hurry=hurry)

    def _hooks(self, side: ClusterSide) -> Hooks:
        return Hooks(
            learn=self.standing.learn,
            status=self.status,
            changed=self._certified,
            forget=self._forget,
            leaving=lambda node, is_leaving: self.standing.leaving(node, is_leaving=is_leaving),
            lends=lambda caller: survey.lends(self.server.stats(), caller, side),
            life=self.standing.life,
        )

    def _forget(self, node: int, life: int | None) -> None:
        self.standing.forget(node, life)
        if self.side and life is None:
            self.server.set_revoked(sorted(self.side.departures.revoked))

    async def _serve_metrics(self) -> None:
        if self.table.metrics is None:
            return
        # Imported here: an HTTP server is what no other node needs.
        from ramster.node import scrape

        def figures() -> Figures:
            return scrape.figures(
                status=self.status(), stats=self.server.stats(), limit_bytes=self.standing.limit_bytes,
                latency_us=self.standing.latency_us, refused=self._refused, clients=self._clients, totals=self._totals,
            )  # fmt: skip

        host, port = addresses.split(self.table.metrics, of=f"{self._path}: node.metrics")
        self._end_metrics = await scrape.serve(host, port, figures, of=f"{self._path}: node.metrics")
        logging.getLogger("ramster.metrics").info("metrics on http://%s/metrics", self.table.metrics)

    def status(self) -> dict[str, Any]:
        """All that `ramster status` shows: this node first, then its peers, then its clients."""
        found = {
            "type": "status",
            "nodes": self.standing.nodes(self.server),
            "quorum": self.standing.membership.quorum().as_dict(),
            "settings": self.knobs.as_dict(),
            "clients": [client.as_dict() for client in self._clients],
            "owners": self.server.stats()["clients"],
        }
        return {**found, "cluster": self.side.status()} if self.side else found

    def _certified(self, credentials: dict[str, str]) -> None:
        """New certificates are in force for links that begin from now on."""
        try:
            self.server.set_credentials(credentials)
        except RamsterError as error:
            log.error("the page port keeps its old certificate: %s", error)

    def _listen_address(self) -> str:
        host, port = addresses.split(self.table.listen, of=f"{self._path}: node.listen")
        return addresses.join("127.0.0.1" if host == "localhost" else host, port)

    async def _admin(self) -> asyncio.Server:
        before = os.umask(0o177)  # the socket is for this user alone from its first moment
        try:
            return await asyncio.start_unix_server(self._serve, self.table.socket, limit=lines.MAX_LINE_BYTES)
        except OSError as error:
            raise StartError(
                f"{self._path}: node.socket: {self.table.socket} cannot be made ({error.strerror}); "
                "name a path in a directory of yours"
            ) from None
        finally:
            os.umask(before)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to the admin socket: a question, or a client for as long as it lives."""
        try:
            with self._counting("other_user"):
                callers.check(writer.get_extra_info("socket"))
            first = await lines.receive(reader)
            if first is None:
                return
            if first.get("type") == "status":
                await _send(writer, self.status())
                return
            if order := self._orders().get(str(first.get("type"))):
                await self._obey(order, first, writer)
                return
            with self._counting("bad_message"):
                client = clients.register(first)
            await self._serve_client(client, reader, writer)
        except RefusedError as error:
            log.warning("admin socket: link closed: %s", error)
        except (OSError, TimeoutError):
            pass  # the other side is gone, which its end of the link says well enough
        finally:
            writer.close()

    @contextlib.contextmanager
    def _counting(self, reason: str) -> Iterator[None]:
        try:
            yield
        except RefusedError:
            self._refused[reason] += 1
            raise

    def _orders(self) -> dict[str, Order]:
        """What the admin socket may order, besides looking and registering."""
        return {
            "set": self._set,
            "nodes": self._nodes,
            "leave": lambda message: self.leaving.leave(self.server, message),
            "forget": lambda message: leaving.forget(
                message.get("node"), force=message.get("force") is True, own=self.table.id, standing=self.standing,
                side=self.side,
            ),
        }  # fmt: skip

    async def _obey(self, order: Order, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        try:
            answer = await order(message)
        except RamsterError as error:
            answer = {"type": "refused", "reason": str(error)}
        try:
            await _send(writer, answer)
        finally:
            if self.leaving.is_gone:
                self._stop.set()

    async def _nodes(self, _: dict[str, Any]) -> dict[str, Any]:
        """Who lends to whom: asks the others."""
        nodes = self.standing.nodes(self.server)
        for node in nodes:
            latency_us = self.standing.latency_us(node["id"])
            node["latency_ms"] = None if latency_us is None else latency_us / 1000
        found = await survey.ask(nodes, list(self._clients), self.server.stats(), self.side)
        return {**found, "quorum": self.standing.membership.quorum().as_dict()}

    async def _serve_client(
        self, client: clients.Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if len(self._clients) >= clients.CLIENTS_MAX:
            self._refused["too_many_clients"] += 1
            raise RefusedError(f"more than {clients.CLIENTS_MAX} clients")
        credentials = self.side.credentials_for(client) if self.side else None
        self._clients[client] = writer
        clients_log.info("client %d (%s) came", client.pid, client.program)
        try:
            peers, quorum = self._peers()
            directive = directives.greet(client.pid, peers=len(peers), quorum=quorum.held)
            await _send(writer, self._view(peers, directive, credentials))
            while (message := await lines.receive(reader)) is not None:
                if message.get("type") == "stats":
                    histograms = client.hear(message)
                    counters = {name: client.stats.get(name, 0) for name in COUNTED}
                    self._totals.hear(client.block, counters, histograms)
        finally:
            del self._clients[client]
            if self.side:
                self.side.left(client)
            clients_log.info("client %d (%s) left", client.pid, client.program)

    async def _rounds(self) -> None:
        while True:
            if self.side:
                self.side.check()
            seen = self.standing.round(self.server)
            peers, held = self.knobs.targeted(seen.peers), seen.quorum.held
            found = {}
            share_bytes = sharing.limit_bytes(sharing.free_bytes(self.standing.nodes(self.server), self.table.id))
            is_news = sharing.is_news(self._share_bytes, share_bytes)
            self._share_bytes = share_bytes if is_news else self._share_bytes
            if seen.changed or is_news:
                found = {pid: directives.greet(pid, peers=len(peers), quorum=held) for pid in self._pids()}
            memory = machine.memory()
            snapshot = directives.MachineSnapshot(memory.total_bytes, memory.available_bytes)
            snapshots = [client.snapshot() for client in self._clients]
            decided = directives.decide(snapshot, snapshots, peers=len(peers), quorum=held)
            found.update({directive.pid: directive for directive in decided})
            await self._direct(found, peers, held=held)
            await self.standing.news(ROUND_MS)

    async def _set(self, message: dict[str, Any]) -> dict[str, Any]:
        """What `ramster set` asks for: all clients hear of it at once."""
        key, value = str(message.get("key")), str(message.get("value"))
        self.knobs = knobs.turn(self.knobs, key, value, ram_bytes=machine.memory().ram_bytes)
        log.info("set: %s = %s", key, value)
        for name, level in self.knobs.levels().items():
            logging.getLogger(name).setLevel(level)
        if self.knobs.offer_bytes is not None:
            self.standing.lend_at_most(self.knobs.offer_bytes)
        self.standing.reserve(self.knobs.reserve_bytes)
        peers, quorum = self._peers()
        greeting = {pid: directives.greet(pid, peers=len(peers), quorum=quorum.held) for pid in self._pids()}
        await self._direct(greeting, peers, held=quorum.held)
        return {"type": "set", "settings": self.knobs.as_dict()}

    def _view(
        self, peers: list[dict[str, Any]], directive: directives.Directive, credentials: dict[str, Any] | None
    ) -> dict[str, Any]:
        message = clients.view(peers, directive, credentials, silent=self.standing.silent())
        told = {**message["directives"], "remote_bytes": self._share_bytes}
        return {**message, "directives": self.knobs.directives(told)}

    def _peers(self) -> tuple[list[dict[str, Any]], Quorum]:
        """Where new pages may go."""
        peers, quorum = self.standing.peers()
        return self.knobs.targeted(peers), quorum

    def _pids(self) -> list[int]:
        return [client.pid for client in self._clients]

    async def _direct(self, found: dict[int, directives.Directive], peers: list[dict[str, Any]], *, held: bool) -> None:
        for client, writer in list(self._clients.items()):
            directive = found.get(client.pid)
            credentials = self.side.renewed_for(client) if self.side else None
            if directive is None and credentials is None:
                continue
            directive = directive or directives.greet(client.pid, peers=len(peers), quorum=held)
            if directive.resident_bytes is not None:
                released = directive.resident_bytes == directives.RELEASED_BYTES
                client.held_bytes = None if released else directive.resident_bytes
                policy_log.info("client %d: resident limit %s: %s", client.pid,
                         "its own" if released else f"{directive.resident_bytes >> 20} MiB", directive.reason)  # fmt: skip
            policy_log.debug("client %d: %s: %s", client.pid, directive.message(), directive.reason)
            try:
                await _send(writer, self._view(peers, directive, credentials))
            except (OSError, TimeoutError):
                writer.close()


def serve(config_path: str) -> None:
    """Runs the node that `config_path` describes, in the foreground. Raises ConfigError or StartError."""
    found = file.read(config_path, ram_bytes=machine.memory().ram_bytes)

    async def main() -> None:
        await Node(found).run()

    asyncio.run(main())


async def _send(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(lines.encode(message))
    async with asyncio.timeout(SEND_DEADLINE_MS / 1000):
        await writer.drain()


def _make_way(path: str) -> None:
    """Removes a dead node's socket. Raises StartError when a node lives there, or when something else is in the way."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        folder = os.path.dirname(path) or "."
        if path == places.default_socket():
            os.makedirs(folder, mode=0o700, exist_ok=True)
        if not os.path.isdir(folder):
            raise StartError(f"node.socket: {folder} is not a directory; make it first: mkdir -p {folder}") from None
        return
    except OSError as error:
        raise StartError(
            f"node.socket: {path} cannot be used ({error.strerror}); name a path in a directory of yours"
        ) from None
    if not stat.S_ISSOCK(mode):
        raise StartError(f"node.socket: {path} exists and is not a socket; remove it, or name another path")
    try:
        lines.ask(path, {"type": "status"}, deadline_ms=ASK_DEADLINE_MS)
    except (ConnectionRefusedError, FileNotFoundError):
        _unlink(path)
        return
    except (OSError, RefusedError):
        pass
    raise StartError(f"node.socket: a process already listens on {path}; stop it, or name another path")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
