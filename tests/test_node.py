"""Nodes: status, clients, remote pages, freeing, and a holder's death. All on loopback, all ended by process id."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import DEADLINE_S, RAMSTER, NodeUnderTest, under_ramster, wait_for
from ports import free_address

# 96 MiB that do not compress, visited twice in an order of its own: far more than 16 MiB hold.
WORK = """
import random, sys
made = random.Random(4)
blocks = [made.randbytes(4096 * 16) for _ in range(1500)]
order = list(range(1500)); made.shuffle(order)
again = random.Random(4)
expected = [again.randbytes(4096 * 16) for _ in range(1500)] if len(sys.argv) > 1 else None
import hashlib
sums = [None] * 1500
for _ in range(2):
    for i in order:
        sums[i] = hashlib.blake2b(blocks[i], digest_size=8).hexdigest()
print(hashlib.blake2b("".join(sums).encode()).hexdigest())
"""


def test_a_node_alone_shows_itself_and_stops_on_sigterm(start_node: Callable[..., NodeUnderTest]) -> None:
    node = start_node(7, offer="64M")
    status = node.status()
    assert [
        (found["id"], found["state"], found["offered_bytes"], found["foreign_bytes"]) for found in status["nodes"]
    ] == [(7, "up", 64 << 20, 0)]
    assert status["clients"] == []
    assert node.stop() == 0
    assert not node.socket.exists()


def test_the_admin_socket_is_for_its_user_alone(start_node: Callable[..., NodeUnderTest]) -> None:
    assert start_node().socket.stat().st_mode & 0o077 == 0


SPEAK = """
import os, socket, sys
os.setgid(12345); os.setuid(12345)
link = socket.socket(socket.AF_UNIX); link.settimeout(20); link.connect(sys.argv[1])
try:
    link.sendall(sys.argv[2].encode() + b"\\n")
    print(len(link.recv(1000)))
except (BrokenPipeError, ConnectionResetError):
    print(0)
"""


@pytest.mark.parametrize("line", ['{"type":"status"}', '{"type":"register","pid":1,"client":"00","program":""}'])
def test_the_admin_socket_answers_no_other_user_even_where_they_can_open_it(line: str) -> None:
    """The kernel says who it is; modes of files are somebody's mistake away."""
    if os.geteuid() != 0:
        pytest.skip("speaking as another user needs root")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        node = NodeUnderTest(Path(folder), 1, "64M", {})
        try:
            node.wait_up()
            node.socket.chmod(0o777)
            answer = subprocess.run(
                ["/usr/bin/env", "python3", "-c", SPEAK, str(node.socket), line],
                capture_output=True,
                timeout=30,
                cwd="/",
            )
            assert answer.stdout == b"0\n", answer
            assert node.status()["clients"] == []
            assert "of another user (uid 12345)" in node.log.read_text()
        finally:
            node.kill()


def test_a_dead_nodes_socket_is_no_obstacle(start_node: Callable[..., NodeUnderTest]) -> None:
    start_node().kill()
    assert start_node().status()["nodes"][0]["state"] == "up"


def test_peers_are_seen_up_and_down_and_as_who_they_are(start_node: Callable[..., NodeUnderTest]) -> None:
    second = start_node(2, offer="32M")
    first = start_node(1, peers={2: second.address, 3: second.address})

    def states() -> dict[int, str]:
        return {node["id"]: node["state"] for node in first.status()["nodes"]}

    wait_for(lambda: states() == {1: "up", 2: "up", 3: "down"}, "one peer up and the impostor down")
    nodes = {node["id"]: node for node in first.status()["nodes"]}
    assert nodes[2]["offered_bytes"] == 32 << 20
    assert "answers as node 2" in nodes[3]["reason"]
    second.kill()
    wait_for(lambda: states()[2] == "down", "the peer down")


def test_a_program_uses_a_peer_and_everything_comes_back(
    start_node: Callable[..., NodeUnderTest], tmp_path: Path
) -> None:
    holder = start_node(2)
    stats = tmp_path / "stats.json"
    plain = subprocess.run([sys.executable, "-c", WORK], capture_output=True, timeout=DEADLINE_S, check=True)
    answer = under_ramster([sys.executable, "-c", WORK], local="16M", stats=stats, flags=("--peers", holder.address))
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, plain.stdout, b"")
    found = json.loads(stats.read_text())
    assert found["pages_remotified"] > 15_000
    assert found["faults_remote"] > 0
    assert found["pages_localified"] > 15_000
    assert found["pages_lost"] == 0
    # The highest of each, at different times: together they may come to twice the limit, alone never above it for long.
    assert found["bytes_resident_max"] <= (16 << 20) * 1.2
    assert found["bytes_stored_max"] <= (16 << 20) * 1.2
    wait_for(lambda: holder.foreign_bytes() == 0, "the holder frees what a client that ended had")


def test_a_client_learns_its_peers_from_the_local_node_and_is_listed_there(
    start_node: Callable[..., NodeUnderTest], tmp_path: Path
) -> None:
    holder = start_node(2)
    local = start_node(1, peers={2: holder.address})
    wait_for(lambda: local.status()["nodes"][1]["state"] == "up", "the peer is up")
    code = WORK + "print('done', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--node", str(local.socket), "--", sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        assert process.stdout.readline() == b"done\n"
        client = wait_for(
            lambda: next((found for found in local.status()["clients"] if found["remote_bytes"] > 0), None),
            "a client with remote pages",
        )
        assert client["pid"] == process.pid
        assert set(client) >= {"pid", "resident_bytes", "stored_bytes", "remote_bytes"}
        assert 0 < client["resident_bytes"] <= (16 << 20) * 1.1
        assert holder.foreign_bytes() > 40 << 20
        process.stdin.close()
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(20)
    wait_for(lambda: local.status()["clients"] == [], "the client is gone")
    wait_for(lambda: holder.foreign_bytes() == 0, "its pages are freed")


def test_a_killed_clients_pages_are_freed(start_node: Callable[..., NodeUnderTest]) -> None:
    holder = start_node(2)
    code = WORK + "print('done', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--peers", holder.address, "--", sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()
    assert holder.foreign_bytes() > 0
    process.kill()
    process.wait(20)
    wait_for(lambda: holder.foreign_bytes() == 0, "its pages are freed")


def test_a_small_peer_is_filled_and_the_next_one_takes_the_rest(
    start_node: Callable[..., NodeUnderTest], tmp_path: Path
) -> None:
    small, large = start_node(2, offer="8M"), start_node(3)
    stats = tmp_path / "stats.json"
    plain = subprocess.run([sys.executable, "-c", WORK], capture_output=True, timeout=DEADLINE_S, check=True)
    answer = under_ramster(
        [sys.executable, "-c", WORK], local="16M", stats=stats, flags=("--peers", f"{small.address},{large.address}")
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, plain.stdout, b"")
    assert json.loads(stats.read_text())["pages_remotified"] > 15_000


LOSE = """
import random, sys
made = random.Random(4)
blocks = [made.randbytes(65536) for _ in range(1500)]
print("ready", flush=True)
sys.stdin.readline()
again = random.Random(4)
for block in blocks:
    if again.randbytes(65536) != block:
        print("WRONG BYTES", flush=True)
print("survived", flush=True)
"""


@pytest.mark.parametrize("supervised", [False, True])
def test_a_dead_holders_pages_end_the_access_loudly_and_are_never_zeroes(
    start_node: Callable[..., NodeUnderTest], tmp_path: Path, supervised: bool
) -> None:
    holder = start_node(2)
    stats = tmp_path / "stats.json"
    flags = ["--stats", str(stats)] if supervised else []
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--peers", holder.address, *flags, "--", sys.executable, "-c", LOSE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    wait_for(lambda: holder.foreign_bytes() > 0, "pages at the holder")
    holder.kill()
    out, err = process.communicate(b"go\n", timeout=60)
    assert process.returncode == -signal.SIGBUS
    assert out == b""
    lines = err.decode().splitlines()
    assert any(line.startswith("ramster: ") and "lost" in line and holder.address in line for line in lines), err
    if supervised:
        assert json.loads(stats.read_text())["pages_lost"] > 0


@pytest.mark.parametrize("another", [False, True])
def test_a_node_that_is_told_to_stop_gives_its_pages_back_and_nothing_is_lost(
    start_node: Callable[..., NodeUnderTest], tmp_path: Path, another: bool
) -> None:
    holders = [start_node(number, offer="256M") for number in ((2, 3) if another else (2,))]
    stats = tmp_path / "stats.json"
    flags = ["--durability", "none", "--peers", ",".join(holder.address for holder in holders), "--stats", str(stats)]
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", *flags, "--", sys.executable, "-c", LOSE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    wait_for(lambda: holders[0].foreign_bytes() > 0, "pages at the holder")
    assert holders[0].stop() == 0
    assert "all pages were taken away" in holders[0].log.read_text()
    out, err = process.communicate(b"go\n", timeout=DEADLINE_S)
    assert (process.returncode, out) == (0, b"survived\n"), err
    assert json.loads(stats.read_text())["pages_lost"] == 0


def test_a_node_does_not_wait_for_ever_for_an_owner_that_does_not_run(
    start_node: Callable[..., NodeUnderTest], tmp_path: Path
) -> None:
    holder = start_node(2)
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--peers", holder.address, "--", sys.executable, "-c", LOSE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    wait_for(lambda: holder.foreign_bytes() > 0, "pages at the holder")
    process.send_signal(signal.SIGSTOP)
    holder.process.send_signal(signal.SIGTERM)
    wait_for(lambda: "to take" in holder.log.read_text(), "it asks")
    assert holder.process.poll() is None
    holder.process.send_signal(signal.SIGTERM)
    assert holder.process.wait(5) == 0
    assert "were not taken away in time" in holder.log.read_text()
    process.kill()
    process.communicate(timeout=20)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("durability", ["copies=2", "disk", "ec=2+1"])
def test_with_another_copy_a_program_outlives_any_one_holder(
    start_node: Callable[..., NodeUnderTest], tmp_path: Path, durability: str, signal_number: signal.Signals
) -> None:
    count = {"copies=2": 2, "disk": 1, "ec=2+1": 3}[durability]
    holders = [start_node(number, offer="256M") for number in range(2, 2 + count)]
    stats = tmp_path / "stats.json"
    peers = ",".join(holder.address for holder in holders)
    flags = ["--durability", durability, "--stats", str(stats)]
    if durability == "disk":
        flags += ["--spill", str(tmp_path)]
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--peers", peers, *flags, "--", sys.executable, "-c", LOSE],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    wait_for(lambda: all(holder.foreign_bytes() > 0 for holder in holders), "pages at every holder")
    holders[0].process.send_signal(signal_number)
    out, err = process.communicate(b"go\n", timeout=DEADLINE_S)
    assert (process.returncode, out) == (0, b"survived\n"), err
    found = json.loads(stats.read_text())
    assert found["pages_lost"] == 0
    if signal_number == signal.SIGKILL:
        assert found["copies_lost"] > 0
    else:
        assert found["gets_elsewhere"] > 0


def test_without_a_holder_there_is_one_line_about_the_soft_limit_and_no_harm() -> None:
    address = free_address()
    plain = subprocess.run([sys.executable, "-c", WORK], capture_output=True, timeout=DEADLINE_S, check=True)
    answer = under_ramster([sys.executable, "-c", WORK], local="16M", flags=("--peers", address))
    assert (answer.returncode, answer.stdout) == (0, plain.stdout)
    soft = [line for line in answer.stderr.decode().splitlines() if "limit" in line]
    assert len(soft) == 1


def test_a_brain_that_stops_and_comes_back_harms_no_client(start_node: Callable[..., NodeUnderTest]) -> None:
    holder = start_node(2)
    local = start_node(1, peers={2: holder.address})
    code = "import sys; print('ready', flush=True); sys.stdin.readline()\n" + WORK
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--node", str(local.socket), "--", sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    wait_for(lambda: local.status()["clients"], "the client is registered")
    local.kill()
    again = start_node(1, peers={2: holder.address})
    wait_for(lambda: again.status()["clients"], "the client registers again")
    out, err = process.communicate(b"go\n", timeout=DEADLINE_S)
    plain = subprocess.run([sys.executable, "-c", WORK], capture_output=True, timeout=DEADLINE_S, check=True)
    assert (process.returncode, out, err) == (0, plain.stdout, b"")


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\n",
        b"[]\n",
        b'{"type":"register"}\n',
        b'{"type":"register","pid":"x","client":3}\n',
        b'{"a":' * 2000 + b"\n",
        b"x" * (2 << 20),
    ],
)
def test_garbage_on_the_admin_socket_ends_that_link_alone(
    start_node: Callable[..., NodeUnderTest], line: bytes
) -> None:
    node = start_node()
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(20)
        link.connect(str(node.socket))
        try:
            link.sendall(line)
            assert link.recv(100) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert node.status()["nodes"][0]["state"] == "up"


def test_random_bytes_on_the_page_port_end_that_link_alone(start_node: Callable[..., NodeUnderTest]) -> None:
    import random

    node = start_node()
    seed = random.randrange(1 << 32)
    print("seed", seed)
    made = random.Random(seed)
    host, _, port = node.address.rpartition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), 10) as link:
            try:
                link.sendall(made.randbytes(made.randrange(1, 5000)))
            except OSError:
                pass
    assert node.status()["nodes"][0]["state"] == "up"
