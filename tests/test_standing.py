"""Nodes in their cluster, as processes on loopback: deaths, suspension, quorum with what follows from it, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from conftest import RAMSTER, NodeUnderTest, wait_for
from ports import free_address
from ramster.transport import lines

DEATH_MS = 1500
CLUSTER = f"\n[cluster]\ndeath_ms = {DEATH_MS}\n"
# Pages that do not compress: they must go somewhere.
PUSH = "import os, sys; kept = [os.urandom(1 << 20) for _ in range(64)]; print('ready', flush=True); sys.stdin.read()"


def states(node: NodeUnderTest) -> dict[int, str]:
    status = lines.ask(str(node.socket), {"type": "status"}, deadline_ms=5000)
    return {found["id"]: found["state"] for found in status["nodes"]}


def held(node: NodeUnderTest) -> bool:
    return bool(node.status()["quorum"]["held"])


@contextlib.contextmanager
def client(node: NodeUnderTest) -> Iterator[subprocess.Popen[bytes]]:
    """A program with 64 MiB under a limit of 16, which learns its peers from `node`."""
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--node", str(node.socket), "--", sys.executable, "-c", PUSH],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait(20)


def test_a_suspended_peer_is_declared_dead_and_comes_back_without_declaring_anybody_dead(
    start_node: Callable[..., NodeUnderTest],
) -> None:
    # Suspicion must last long enough to be seen on a busy machine.
    slow = CLUSTER.replace(str(DEATH_MS), "5000")
    second = start_node(2, peers={1: "127.0.0.1:1"}, more=slow)
    first = start_node(1, peers={2: second.address}, more=slow)
    wait_for(lambda: states(first) == {1: "up", 2: "up"}, "the peer is up")
    second.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: states(first)[2] == "suspect", "suspicion")
        wait_for(lambda: states(first)[2] == "down", "the silence is noticed")
    finally:
        second.process.send_signal(signal.SIGCONT)
    wait_for(lambda: states(first)[2] == "up", "it is back")
    assert "another life" not in first.log.read_text()


def test_a_restarted_peer_is_another_life(start_node: Callable[..., NodeUnderTest]) -> None:
    second = start_node(2, listen=free_address())
    first = start_node(1, peers={2: second.address}, more=CLUSTER)
    wait_for(lambda: states(first)[2] == "up", "the peer is up")
    second.kill()
    start_node(2, listen=second.address)
    wait_for(lambda: "another life than before" in first.log.read_text(), "the new life is told")
    wait_for(lambda: states(first)[2] == "up", "the new life is up")


def test_without_quorum_a_node_lends_nothing_more_and_its_clients_send_nothing_until_it_is_back(
    start_node: Callable[..., NodeUnderTest],
) -> None:
    """Of two nodes the higher id stops. It holds pages of a program that asked it directly, and keeps them."""
    address = free_address()
    first = start_node(1, listen=address)
    second = start_node(2, peers={1: address}, more=CLUSTER, offer="256M")
    wait_for(lambda: states(second) == {2: "up", 1: "up"}, "the peer is up")
    assert held(second)
    holder = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--peers", second.address, "--", sys.executable, "-c", PUSH],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        wait_for(lambda: second.status()["nodes"][0]["foreign_bytes"], "foreign pages")
        first.kill()
        wait_for(lambda: not held(second), "quorum is lost")
        wait_for(lambda: second.status()["nodes"][0]["offered_bytes"] < 256 << 20, "the offer is gone")
        # Not before: on its way to sleep the program still writes to pages of its own, which then are no longer here.
        kept = second.status()["nodes"][0]["foreign_bytes"]
        assert kept > 0
        with client(second):
            time.sleep(1)
            sent = [found["remote_bytes"] for found in second.status()["clients"]]
            assert sent == [0], "a client of a node without quorum has sent pages"
            own = second.status()["nodes"][0]
            assert own["foreign_bytes"] >= kept
            shown = subprocess.run(
                [*RAMSTER, "status", "--node", str(second.socket)], capture_output=True, text=True, timeout=20
            ).stdout
            assert "no quorum: hears 1 of 2 nodes" in shown
            start_node(1, listen=address)
            wait_for(lambda: held(second), "quorum is back")
            wait_for(lambda: second.status()["nodes"][0]["offered_bytes"] == 256 << 20, "it lends again")
            wait_for(lambda: second.status()["clients"][0]["remote_bytes"] > 0, "its client sends pages again")
    finally:
        holder.kill()
        holder.wait(20)
    log = second.log.read_text()
    assert "quorum is lost" in log
    assert "quorum is back" in log


def test_a_node_with_blackholed_peers_still_asks_the_others_in_time(start_node: Callable[..., NodeUnderTest]) -> None:
    """A listener whose queue is full drops connections, as a machine that vanished does."""
    import socket

    holes = []
    for _ in range(8):
        hole = socket.socket()
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        holes.append(hole)
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
            holes.append(filler)
    try:
        second = start_node(2)
        peers = {2: second.address}
        for number, hole in enumerate(holes[::4], start=3):
            peers[number] = f"127.0.0.1:{hole.getsockname()[1]}"
        first = start_node(1, peers=peers, more=CLUSTER)
        wait_for(lambda: states(first)[3] == "down", "the vanished ones are down")
        wait_for(lambda: states(first)[2] == "up", "the one that answers is up")
        end = time.monotonic() + 2 * DEATH_MS / 1000
        while time.monotonic() < end:
            assert states(first)[2] == "up"
            os.sched_yield()
    finally:
        for hole in holes:
            hole.close()
