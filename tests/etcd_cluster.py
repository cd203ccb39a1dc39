"""A real etcd for tests, nodes registered with it as processes, and a proxy between each node and etcd that can hold bytes
back, one way or both, as lost packets do. Everything is on ports of its own and ends by its process id."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import NodeUnderTest, need, wait_for
from ports import free_address, free_ports
from ramster.cluster.membership import Member, Quorum, State
from ramster.errors import RamsterError
from ramster.transport import lines


class EtcdUnderTest:
    """One etcd process. `flags` add TLS."""

    def __init__(
        self, folder: Path, *, scheme: str = "http", flags: tuple[str, ...] = (), running: bool = True
    ) -> None:
        need("etcd")
        self.folder = folder
        port, peer_port = free_ports(2)
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        peer = f"http://127.0.0.1:{peer_port}"
        self._command = [
            "etcd", "--data-dir", str(folder / "data"), "--logger", "zap",
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}", *flags,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        if running:
            self.start()

    def start(self) -> None:
        """Starts it, again with the same data, and waits until it listens."""
        with (self.folder / "etcd.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(self._listens, "etcd listens")

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)

    def wipe(self) -> None:
        """Its disk is gone."""
        shutil.rmtree(self.folder / "data")


class Proxy:
    """Carries TCP to a port. While a direction is held its bytes wait; nothing is ever dropped or refused."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = False
        self.port = int(self._listener.getsockname()[1])
        self.out, self.back = threading.Event(), threading.Event()
        self.heal()
        threading.Thread(target=self._accept, daemon=True).start()

    def heal(self) -> None:
        self.out.set()
        self.back.set()

    def cut(self, way: str) -> None:
        if way in ("out", "both"):
            self.out.clear()
        if way in ("in", "both"):
            self.back.clear()

    def end(self) -> None:
        self._ended = True
        self.heal()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        self.out.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._target_port), 5)
        except OSError:
            near.close()
            return
        ended = threading.Event()
        ways = ((near, far, self.out), (far, near, self.back))
        pumps = [threading.Thread(target=self._pump, args=(*way, ended), daemon=True) for way in ways]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        near.close()
        far.close()

    def _pump(
        self, source: socket.socket, target: socket.socket, gate: threading.Event, ended: threading.Event
    ) -> None:
        try:
            while not self._ended and not ended.is_set():
                if not gate.wait(0.2) or not select.select([source], [], [], 0.2)[0]:
                    continue
                data = source.recv(65536)
                if not data:
                    break
                gate.wait()
                target.sendall(data)
        except OSError:
            pass
        ended.set()


class Registered:
    """Nodes 1 to 5 registered with one etcd, as the contract wants them: real processes, real time."""

    death_ms = 3000
    # The stated bounds, and 2 s for machines on which everything else runs too.
    notice_ms = death_ms + 2000
    converge_ms = 3 * death_ms + 2 * death_ms + 2000
    cut_ms = 2 * death_ms + 2000
    slow_ms = 800

    def __init__(self, folder: Path, etcd: EtcdUnderTest, name: str) -> None:
        self.folder, self.etcd, self.name = folder, etcd, name
        self.nodes: dict[int, NodeUnderTest] = {}
        self.proxies: dict[int, Proxy] = {}
        self.suspended: set[int] = set()
        self._listens: dict[int, str] = {}

    def start(self, node: int, *, moved: bool = False) -> None:
        if moved or node not in self._listens:
            self._listens[node] = free_address()
        if node not in self.proxies:
            self.proxies[node] = Proxy(self.etcd.port)
        self.proxies[node].heal()
        more = (
            f'\n[cluster]\nmembership = "etcd"\nname = "{self.name}"\ndeath_ms = {self.death_ms}\n'
            f'etcd = ["http://127.0.0.1:{self.proxies[node].port}"]\n'
        )
        self.nodes[node] = NodeUnderTest(self.folder, node, "16M", {}, self._listens[node], more)

    def _ready(self, node: int) -> None:
        """Nodes start side by side; who is asked or told something is waited for."""
        if not self.nodes[node].address:
            self.nodes[node].wait_up()

    def stop(self, node: int) -> None:
        self._ready(node)
        self.resume(node)
        assert self.nodes[node].stop() == 0

    def kill(self, node: int) -> None:
        self.suspended.discard(node)
        self.nodes[node].kill()

    def vanish(self, node: int) -> None:
        self.proxies[node].cut("both")
        self.kill(node)

    def suspend(self, node: int) -> None:
        self._ready(node)
        self.suspended.add(node)
        self.nodes[node].pause()

    def resume(self, node: int) -> None:
        self.suspended.discard(node)
        self.nodes[node].go_on()

    def cut(self, node: int, way: str) -> None:
        if node in self.proxies:
            self.proxies[node].cut(way)

    def heal(self) -> None:
        for proxy in self.proxies.values():
            proxy.heal()

    def advance(self, ms: int) -> None:
        time.sleep(ms / 1000)

    def until(self, condition: Callable[[], bool], within_ms: int) -> bool:
        end = time.monotonic() + within_ms / 1000
        while True:
            if condition():
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.05)

    def _status(self, node: int) -> dict[str, object]:
        self._ready(node)
        try:
            return lines.ask(str(self.nodes[node].socket), {"type": "status"}, deadline_ms=5000)
        except (OSError, RamsterError) as error:
            pytest.fail(f"node {node} does not answer: {error}\n{self.nodes[node].log.read_text()}")

    def view(self, node: int) -> dict[int, Member]:
        found: dict[int, Member] = {}
        for entry in self._status(node)["nodes"][1:]:  # type: ignore[index]
            found[entry["id"]] = Member(
                entry["id"], entry["address"], State(entry["state"]), entry["incarnation"], reason=entry["reason"]
            )
        return found

    def quorum(self, node: int) -> Quorum:
        return Quorum(**self._status(node)["quorum"])  # type: ignore[arg-type]

    def _own(self, node: int) -> dict[str, object]:
        return self._status(node)["nodes"][0]  # type: ignore[index, no-any-return]

    def incarnation(self, node: int) -> int:
        return self._told(node, "incarnation")  # type: ignore[return-value]

    def address(self, node: int) -> str:
        return self._told(node, "address")  # type: ignore[return-value]

    def _told(self, node: int, key: str) -> object:
        """What a node says of itself never changes in its life."""
        known = self.nodes[node].said
        if not known:
            known.update(self._own(node))
        return known[key]

    def end(self) -> None:
        for node in self.nodes.values():
            if node.process.poll() is None:
                node.kill()
        for proxy in self.proxies.values():
            proxy.end()
