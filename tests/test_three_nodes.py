"""From nothing to a cluster of three real nodes on this machine: commands, TLS, a program's pages, rotation, restarts."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import DEADLINE_S, RAMSTER, check_nothing_is_left, ramster, wait_for
from ports import free_ports
from test_node import WORK


class Machine:
    """A directory that stands for a machine: its cluster's directory, its socket and its node."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder / "etc"
        self.socket = folder / "node.sock"
        self.log = folder / "log"
        page, control = free_ports(2)
        self.listen, self.control = f"127.0.0.1:{page}", f"127.0.0.1:{control}"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()

    def flags(self) -> list[str]:
        return ["--dir", str(self.dir), "--listen", self.listen, "--control", self.control, "--offer", "256M",
                "--socket", str(self.socket)]  # fmt: skip

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*RAMSTER, "node", "--config", str(self.dir / "node.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._serves, "the node serves")

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return self.socket.exists()

    def status(self) -> dict[str, Any]:
        answer = ramster("status", "--json", "--node", str(self.socket), timeout=20)
        assert answer.returncode == 0, answer.stderr
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def states(self) -> dict[int, str]:
        return {node["id"]: node["state"] for node in self.status()["nodes"]}

    def wait_all_up(self) -> None:
        wait_for(lambda: self.states() == {1: "up", 2: "up", 3: "up"}, "all three are up")

    def wait_said(self, words: str, times: int = 1) -> None:
        wait_for(lambda: self.log.read_text().count(words) >= times, f"the log says: {words}")

    def foreign_bytes(self) -> int:
        return int(self.status()["nodes"][0]["foreign_bytes"])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(20)
        self.socket.unlink(missing_ok=True)


def do(*arguments: str) -> str:
    answer = ramster(*arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.decode().strip()


@pytest.fixture
def machines(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[Machine]]:
    """Three nodes of one cluster, up; the third joined by the second's control port, which sent it on to the first's.

    Whoever of them still runs at the end holds nothing.
    """
    failed = request.session.testsfailed
    made = [Machine(tmp_path / f"m{index}") for index in (1, 2, 3)]
    one, two, three = made
    try:
        do("init", *one.flags())
        one.start()
        do("join", do("token", "--dir", str(one.dir)), one.control, *two.flags())
        two.start()
        do("join", do("token", "--dir", str(one.dir)), two.control, *three.flags())
        three.start()
        for machine in made:
            machine.wait_all_up()
        yield made
        if request.session.testsfailed == failed:
            for machine in made:
                check_nothing_is_left(machine.process, machine.foreign_bytes)
    finally:
        for machine in made:
            machine.stop(signal.SIGKILL)
            print(f"--- {machine.dir}\n{machine.log.read_text() if machine.log.exists() else ''}")


def plain() -> bytes:
    return subprocess.run([sys.executable, "-c", WORK], capture_output=True, timeout=DEADLINE_S, check=True).stdout


def test_a_programs_pages_lie_on_other_nodes_and_every_byte_comes_back(machines: list[Machine], tmp_path: Path) -> None:
    one, two, three = machines
    stats = tmp_path / "stats.json"
    answer = ramster(
        "run", "--local", "16M", "--node", str(one.socket), "--stats", str(stats), "--", sys.executable, "-c", WORK
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, plain(), b"")
    found = json.loads(stats.read_text())
    assert found["pages_remotified"] > 15_000
    assert found["pages_localified"] > 15_000
    assert found["pages_lost"] == 0
    wait_for(lambda: two.foreign_bytes() + three.foreign_bytes() == 0, "the holders free what a client that ended had")


def test_nobody_without_a_certificate_has_pages_here(machines: list[Machine], tmp_path: Path) -> None:
    stats = tmp_path / "stats.json"
    flags = ("--peers", machines[1].listen, "--stats", str(stats))
    answer = ramster("run", "--local", "16M", *flags, "--", sys.executable, "-c", WORK)
    assert (answer.returncode, answer.stdout) == (0, plain())
    assert json.loads(stats.read_text())["pages_remotified"] == 0
    assert machines[1].status()["owners"] == []


def test_certificates_rotate_under_a_running_program(machines: list[Machine], tmp_path: Path) -> None:
    """New ones on both sides, while pages are away; links go on, and those that begin later use the new ones."""
    one, two, three = machines
    code = WORK.replace("sums = [None] * 1500", "sums = [None] * 1500\nprint('away', flush=True); sys.stdin.readline()")
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--node", str(one.socket), "--", sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"away\n"
        wait_for(lambda: two.foreign_bytes() + three.foreign_bytes() > 40 << 20, "pages are away")
        for machine in machines:
            do("rotate", "--dir", str(machine.dir))
            machine.wait_said("certificates reloaded")
        assert one.process is not None
        one.process.send_signal(signal.SIGHUP)
        one.wait_said("certificates reloaded", times=2)
        for machine in machines:
            machine.wait_all_up()
        out, err = process.communicate(b"go\n", timeout=DEADLINE_S)
        assert (process.returncode, out, err) == (0, plain(), b"")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(20)


def test_a_node_that_moved_is_found_again_and_peers_are_kept_over_a_restart(machines: list[Machine]) -> None:
    one, two, three = machines
    page, control = free_ports(2)
    three.stop()
    config = three.dir / "node.toml"
    text = config.read_text().replace(three.listen, f"127.0.0.1:{page}").replace(three.control, f"127.0.0.1:{control}")
    config.write_text(text)
    # Two does not run while three comes up elsewhere: it hears of it when it is back.
    two.stop()
    three.start()
    wait_for(lambda: one.states() == {1: "up", 2: "down", 3: "up"}, "the first one finds it where it is now")
    two.start()
    wait_for(lambda: two.states() == {1: "up", 2: "up", 3: "up"}, "the second one too", 30)
    assert {node["address"] for node in two.status()["nodes"]} == {one.listen, two.listen, f"127.0.0.1:{page}"}
    assert config.read_text() == text


def test_a_node_whose_certificate_names_another_does_not_start(machines: list[Machine]) -> None:
    two = machines[1]
    two.stop()
    config = two.dir / "node.toml"
    config.write_text(config.read_text().replace("id = 2", "id = 3"))
    answer = ramster("node", "--config", str(config), timeout=30)
    assert answer.returncode == 2
    assert b"node.id is 3" in answer.stderr
    assert answer.stderr.count(b"\n") == 1


def test_random_bytes_on_both_ports_end_their_links_alone(machines: list[Machine]) -> None:
    import random

    seed = random.randrange(1 << 32)
    print("seed", seed)
    made = random.Random(seed)
    for address in (machines[1].listen, machines[1].control):
        host, _, port = address.rpartition(":")
        for _ in range(30):
            with socket.create_connection((host, int(port)), 10) as link:
                try:
                    link.sendall(made.randbytes(made.randrange(1, 5000)))
                except OSError:
                    pass
    assert machines[1].states() == {1: "up", 2: "up", 3: "up"}


def test_another_node_at_its_address_is_not_taken_for_the_peer(machines: list[Machine]) -> None:
    """Node 9 does not exist, and node 2, which has a certificate of the cluster, answers where it is said to be."""
    one, two, _ = machines
    one.stop()
    config = one.dir / "node.toml"
    config.write_text(config.read_text() + f'\n[[peers]]\nid = 9\naddress = "{two.listen}"\n')
    one.start()
    wait_for(
        lambda: one.states() == {1: "up", 2: "up", 3: "up", 9: "down"}, "the others are up and nobody is node 9", 30
    )
    (nine,) = (node for node in one.status()["nodes"] if node["id"] == 9)
    assert nine["incarnation"] is None
    assert nine["reason"] == "silent for 5000 ms (its certificate is another node's)"
    assert "peer 9" in one.log.read_text()
    assert f"peer 9 ({two.listen}) is up" not in one.log.read_text()
