"""What the tests share: the command, nodes that end with the test, and deadlines for every wait."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ramster.transport import lines

if TYPE_CHECKING:
    from cluster_sides import Side

RAMSTER = [sys.executable, "-m", "ramster"]
# For one program on two cores that other tests may share; a hang is found by this, not a slow machine.
DEADLINE_S = 120
# A holder keeps the pages of a program that was killed for 10 s.
LEFT_S = 30


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seconds", type=float, default=60.0, help="how long the programs of tests/chaos run")
    parser.addoption("--soak-seconds", type=float, default=20.0, help="how long each race is repeated by tests/soak")


@pytest.fixture(autouse=True)
def _no_node_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A node that happens to run on this machine is no part of a test."""
    if os.path.exists("/run/ramster/node.sock"):
        pytest.skip("a node serves /run/ramster/node.sock; stop it first: programs would register with it")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "C")


def ramster(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Runs the command to its end, within the deadline."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": DEADLINE_S, **options}
    return subprocess.run([*RAMSTER, *arguments], **options)


def under_ramster(
    command: list[str], *, local: str = "32M", stats: Path | None = None, flags: tuple[str, ...] = (), **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Runs a program under `ramster run` with little local memory."""
    more = ("--stats", str(stats)) if stats else ()
    return ramster("run", "--local", local, *more, *flags, "--", *command, **options)


def need(*programs: str) -> None:
    """Skips, saying which program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; .ci/run installs it")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """The first true value of `condition`; fails when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    pytest.fail(f"{what}: not within {seconds} s")


class NodeUnderTest:
    """One `ramster node` process with its files."""

    def __init__(
        self,
        folder: Path,
        number: int,
        offer: str,
        peers: dict[int, str],
        listen: str = "127.0.0.1:0",
        more: str = "",
        metrics: str | None = None,
    ) -> None:
        self.number = number
        self.socket = folder / f"node{number}.sock"
        self.log = folder / f"node{number}.log"
        self.config = folder / f"node{number}.toml"
        text = f'[node]\nid = {number}\nlisten = "{listen}"\noffer = "{offer}"\nsocket = "{self.socket}"\n'
        if metrics:
            text += f'metrics = "{metrics}"\n'
        for peer, address in peers.items():
            text += f'\n[[peers]]\nid = {peer}\naddress = "{address}"\n'
        self.config.write_text(text + more)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*RAMSTER, "node", "--config", str(self.config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.address = ""
        self.said: dict[str, Any] = {}

    def wait_up(self) -> None:
        self.address = wait_for(self._address, "the node serves")

    def _address(self) -> str | None:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return str(lines.ask(str(self.socket), {"type": "status"}, deadline_ms=2000)["nodes"][0]["address"])
        except OSError:
            return None

    def status(self) -> dict[str, Any]:
        answer = ramster("status", "--json", "--node", str(self.socket), timeout=20)
        assert answer.returncode == 0, answer.stderr
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def foreign_bytes(self) -> int:
        """What it holds of others."""
        return int(self.status()["nodes"][0]["foreign_bytes"])

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def check_nothing_is_left(process: subprocess.Popen[bytes] | None, foreign_bytes: Callable[[], int]) -> None:
    """The test's programs have ended, so a node that runs may not hold any of their pages for longer than the grace time."""
    if process is None or process.poll() is not None:
        return
    is_stopped = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    if not is_stopped:
        wait_for(lambda: foreign_bytes() == 0, "nothing is left at a node", LEFT_S)


@pytest.fixture
def start_node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., NodeUnderTest]]:
    """Starts nodes; all of them are ended after the test, by their process ids, and hold nothing by then."""
    nodes: list[NodeUnderTest] = []
    failed = request.session.testsfailed

    def start(
        number: int = 1,
        offer: str = "512M",
        peers: dict[int, str] | None = None,
        listen: str = "127.0.0.1:0",
        more: str = "",
        metrics: str | None = None,
    ) -> NodeUnderTest:
        """`listen` for one that must come back where it was; `more` is added to its file."""
        node = NodeUnderTest(tmp_path, number, offer, peers or {}, listen, more, metrics)
        nodes.append(node)
        node.wait_up()
        return node

    yield start
    try:
        if request.session.testsfailed == failed:
            for node in nodes:
                check_nothing_is_left(node.process, node.foreign_bytes)
    finally:
        for node in nodes:
            if node.process.poll() is None:
                node.kill()


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    """The control port of a new cluster's first node."""
    from cluster_sides import Side, make_cluster

    make_cluster(tmp_path / "one")
    found = Side(tmp_path / "one")
    yield found
    found.stop()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An empty directory for the test's own keys."""
    (tmp_path / "own").mkdir()
    return tmp_path / "own"
