"""Leaving for good, being forgotten, and who lends to whom: three real nodes with certificates, and programs that use them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conftest import DEADLINE_S, RAMSTER, ramster, wait_for
from ramster import _native
from ramster.security import credentials, files
from ramster.transport import lines
from test_node import WORK
from test_three_nodes import Machine, do, machines, plain

__all__ = ["machines"]


@pytest.fixture
def program(machines: list[Machine]) -> Iterator[subprocess.Popen[bytes]]:
    """On the first machine, with pages on the others; it goes on when it is told to, and then checks them all."""
    one, two, three = machines
    code = WORK.replace("sums = [None] * 1500", "sums = [None] * 1500\nprint('away', flush=True); sys.stdin.readline()")
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--node", str(one.socket), "--", sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"away\n"
        wait_for(lambda: min(two.foreign_bytes(), three.foreign_bytes()) > 10 << 20, "pages on both others")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(20)


def finish(process: subprocess.Popen[bytes]) -> None:
    out, err = process.communicate(b"go\n", timeout=DEADLINE_S)
    assert (process.returncode, out, err) == (0, plain(), b"")


def leave(machine: Machine, *flags: str) -> subprocess.CompletedProcess[bytes]:
    return ramster("leave", "--node", str(machine.socket), *flags)


def state_of(node: int, machine: Machine) -> str:
    """As the machine's node sees it; quicker than the command."""
    nodes = lines.ask(str(machine.socket), {"type": "status"}, deadline_ms=5000)["nodes"]
    return next((str(found["state"]) for found in nodes if found["id"] == node), "")


def test_a_node_leaves_under_a_running_program_and_every_byte_is_right(
    machines: list[Machine], program: subprocess.Popen[bytes]
) -> None:
    one, two, three = machines
    answer = leave(three)
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert b"nothing of others is here any more" in answer.stdout
    assert f"certificates in {three.dir} are still there".encode() in answer.stdout
    assert three.process is not None
    assert three.process.wait(20) == 0
    for machine in (one, two):
        assert machine.states() == {1: "up", 2: "up"}
        assert machine.status()["quorum"]["size"] == 2
        assert [peer["node"] for peer in json.loads((machine.dir / "peers.json").read_text())["peers"]] != [3]
        assert machine.status()["cluster"]["left"] == [3]
    assert (three.dir / "node.pem").exists()
    finish(program)


def test_a_node_that_left_is_a_member_again_when_it_starts_again(machines: list[Machine]) -> None:
    one, two, three = machines
    assert json.loads(leave(three, "--json").stdout)["left"] is True
    wait_for(lambda: one.states() == two.states() == {1: "up", 2: "up"}, "it is forgotten")
    three.start()
    for machine in machines:
        machine.wait_all_up()
    assert one.status()["cluster"]["left"] == two.status()["cluster"]["left"] == []


def test_what_owners_do_not_take_in_time_makes_a_node_stay_and_lend_again(
    machines: list[Machine], program: subprocess.Popen[bytes]
) -> None:
    three = machines[2]
    program.send_signal(signal.SIGSTOP)
    going = subprocess.Popen(
        [*RAMSTER, "leave", "--node", str(three.socket), "--deadline", "10s"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: [state_of(3, machine) for machine in machines] == ["leaving"] * 3, "all see it leaving")
    answer = leave(three)
    assert (answer.returncode, b"is leaving already" in answer.stderr) == (1, True)
    out, err = going.communicate(timeout=60)
    assert (going.returncode, out, err.count(b"\n")) == (1, b"", 1)
    assert b"MiB of nodes 1 were not taken away within 10s; this node has not left" in err
    for machine in machines:
        machine.wait_all_up()
    wait_for(lambda: three.status()["nodes"][0]["offered_bytes"] == 256 << 20, "it lends again", 120)
    program.send_signal(signal.SIGCONT)
    finish(program)


def test_with_force_a_node_leaves_and_its_pages_are_lost_loudly(
    machines: list[Machine], program: subprocess.Popen[bytes]
) -> None:
    _, _, three = machines
    program.send_signal(signal.SIGSTOP)
    answer = leave(three, "--deadline", "1s", "--force", "--wipe")
    assert (answer.returncode, answer.stderr.count(b"\n")) == (1, 1)
    assert b"were not taken away within 1s and are gone" in answer.stderr
    assert b"were removed" in answer.stdout
    assert sorted(path.name for path in three.dir.iterdir()) == ["node.toml"]
    program.send_signal(signal.SIGCONT)
    _, err = program.communicate(b"go\n", timeout=DEADLINE_S)
    # auto is two copies here: the other holder has them all.
    assert (program.returncode, b"0 are lost" in err or b"lost" not in err) == (0, True)


def test_who_was_down_when_a_node_left_hears_of_it_when_it_is_back(machines: list[Machine]) -> None:
    one, two, three = machines
    two.stop(signal.SIGKILL)
    answer = leave(three)
    assert answer.returncode == 0
    assert b"not reached: nodes 2; node 1 tells them" in answer.stdout
    wait_for(lambda: one.states() == {1: "up", 2: "down"}, "the first one has forgotten it")
    two.start()
    wait_for(lambda: two.states() == {1: "up", 2: "up"}, "so has the second one")
    two.stop()
    two.start()
    wait_for(lambda: two.states() == {1: "up", 2: "up"}, "over a restart too")


def test_the_node_that_signs_does_not_leave_the_others_alone(machines: list[Machine]) -> None:
    answer = leave(machines[0])
    assert (answer.returncode, answer.stdout) == (1, b"")
    assert b"signs for nodes 2, 3; move ca.key" in answer.stderr
    assert machines[0].states() == {1: "up", 2: "up", 3: "up"}


def forget(machine: Machine, *words: str) -> subprocess.CompletedProcess[bytes]:
    return ramster("forget", *words, "--node", str(machine.socket))


def turned_away(machine: Machine) -> bool:
    return bool(machine.status()["cluster"]["control_counts"].get("ended_revoked"))


def test_a_forgotten_node_is_let_in_nowhere_and_counts_no_more(machines: list[Machine], tmp_path: Path) -> None:
    one, two, three = machines
    for machine, words, why in [
        (two, ["3"], b"this node does not sign; run it on node 1"),
        (one, ["1"], b"is this node itself"),
        (one, ["7"], b"no node 7 is known"),
        (one, ["3"], b"node 3 is up; run ramster leave there"),
    ]:
        answer = forget(machine, *words)
        assert (answer.returncode, answer.stdout, answer.stderr.count(b"\n")) == (1, b"", 1)
        assert why in answer.stderr
    three.stop(signal.SIGKILL)
    wait_for(lambda: one.states()[3] == two.states()[3] == "down", "it is dead")
    answer = forget(one, "3", "--json")
    assert json.loads(answer.stdout) == {"node": 3, "untold": []}
    for machine in (one, two):
        assert machine.states() == {1: "up", 2: "up"}
        assert machine.status()["cluster"]["revoked"] == [3]

    # Whoever has its key comes back with it, to both ports of both nodes.
    three.start()
    wait_for(lambda: three.states() == {1: "down", 2: "down", 3: "up"}, "it sees nobody")
    assert three.status()["quorum"]["held"] is False
    stolen = credentials.load(files.Directory(str(three.dir))).plain()
    for machine, node in ((one, 1), (two, 2)):
        with pytest.raises(ConnectionError, match=r"Auth|certificate|refused"):
            _native.ask_peer(machine.listen, 3, 5000, node, stolen)
        wait_for(partial(turned_away, machine), "turned away")
        assert machine.states() == {1: "up", 2: "up"}

    # Not after a restart either; and its number is given to nobody else.
    two.stop()
    two.start()
    wait_for(lambda: two.states() == {1: "up", 2: "up"}, "the second one is back")
    with pytest.raises(ConnectionError):
        _native.ask_peer(two.listen, 3, 5000, 2, stolen)
    four = Machine(tmp_path / "m4")
    do("join", do("token", "--dir", str(one.dir)), two.control, *four.flags())
    assert "id = 4" in (four.dir / "node.toml").read_text()


def test_keys_that_were_stolen_from_a_node_that_is_up_are_revoked_by_force(
    machines: list[Machine], program: subprocess.Popen[bytes]
) -> None:
    """The forgotten node's own programs lose what they have elsewhere; those of others do without it, from their other copies."""
    one, two, _ = machines
    assert forget(one, "3", "--force").returncode == 0
    wait_for(lambda: one.states() == two.states() == {1: "up", 2: "up"}, "it is forgotten")
    finish(program)


def shown(at: Machine, machines: list[Machine]) -> tuple[dict[str, Any], dict[str, int]]:
    """What `nodes` shows at one of them, and the bytes that each held: taken again if pages moved meanwhile."""

    def unmoved() -> tuple[dict[str, Any], dict[str, int]] | None:
        before = {str(number): machine.foreign_bytes() for number, machine in enumerate(machines, 1)}
        found = json.loads(ramster("nodes", "--json", "--node", str(at.socket)).stdout)
        after = {str(number): machine.foreign_bytes() for number, machine in enumerate(machines, 1)}
        return (found, after) if before == after else None

    found: tuple[dict[str, Any], dict[str, int]] = wait_for(unmoved, "a reading during which no page moved")
    return found


def told_of(at: Machine, machines: list[Machine]) -> list[dict[str, Any]] | None:
    """The clients that a node shows, if they have at the others just what those hold."""
    told, held = shown(at, machines)
    clients: list[dict[str, Any]] = told["clients"]
    return clients if [client["at"] for client in clients] == [{"2": held["2"], "3": held["3"]}] else None


def test_nodes_shows_who_lends_to_whom(machines: list[Machine], program: subprocess.Popen[bytes]) -> None:
    one, two, three = machines
    told, held = shown(one, machines)
    found = {node["id"]: node for node in told["nodes"]}
    assert found[1]["holds"] == {}
    assert found[2]["holds"] == {"1": held["2"]}
    assert found[3]["holds"] == {"1": held["3"]}
    assert [node["incarnation"] is not None for node in found.values()] == [True] * 3
    assert [node["certificate_expires_s"] > 0 for node in found.values()] == [True] * 3
    assert found[2]["free_bytes"] < found[2]["offered_bytes"]
    assert 0 < found[2]["latency_ms"] < 5000
    # The program tells its node a little later what it has where.
    (client,) = wait_for(lambda: told_of(one, machines), "the program's own count is that of the holders")
    assert client["pid"] == program.pid
    # From elsewhere the same, but for clients, who are their own node's business.
    elsewhere, held = shown(three, machines)
    assert {node["id"]: node["holds"] for node in elsewhere["nodes"]} == {
        1: {},
        2: {"1": held["2"]},
        3: {"1": held["3"]},
    }
    assert elsewhere["clients"] == []
    text = ramster("nodes", "--node", str(two.socket), env={"COLUMNS": "160", "PATH": "/usr/bin:/bin"}).stdout.decode()
    assert "lends to" in text
    three.stop(signal.SIGKILL)
    wait_for(lambda: one.states()[3] == "down", "the third one is dead")
    text = ramster("nodes", "--node", str(one.socket)).stdout.decode()
    assert "what node 3 holds is not known: it is down" in text
