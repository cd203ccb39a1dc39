"""What membership costs: `static` on simulated nodes, by their number; `etcd` with 200 registrations in one real etcd.

    python -m bench.membership [--nodes 2,8,32,64] [--registrations 200] [--seed 1]

Times and messages of `static` are those of a simulated clock and network around the code itself, exact and the same on every
machine; bytes of one question are counted on a real loopback of its own. Not: pages.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from ramster.cluster import static as limits
from ramster.cluster.membership import Announcement, State, Timing
from ramster.cluster.registry import Registry
from ramster.cluster.static import NODES_MAX
from ramster.config.cluster import ClusterTable
from ramster.node.heartbeats import now_ms
from ramster.node.registration import Registration
from ramster.transport.etcd import Etcd
from simulated_nodes import SimulatedCluster

STEADY_MS = 20_000
ROUNDS = 5
JOIN_S = 0.25

# Run in a network namespace of its own: what loopback carries there is the questions and nothing else.
ASK_ONCE = """
import subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
from ramster import _native
server = _native.Server("127.0.0.1:0", 2, 1 << 20)
def carried():
    for line in open("/proc/net/dev"):
        if line.strip().startswith("lo:"):
            words = line.split(":")[1].split()
            return int(words[0]), int(words[1])
before = carried()
for _ in range(200):
    _native.ask_peer(server.address, 1, 1000)
import time; time.sleep(0.2)
after = carried()
print((after[0] - before[0]) / 200, (after[1] - before[1]) / 200)
server.stop()
"""


def bytes_of_a_question() -> tuple[float, float] | None:
    """Bytes and packets of one question with its answer, Ethernet headers included; None without the right to find out."""
    try:
        answer = subprocess.run(
            ["unshare", "-n", sys.executable, "-c", ASK_ONCE], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    length, packets = answer.stdout.split()
    return float(length), float(packets)


def static(size: int, seed: int, question: float | None) -> str:
    """One row: the cost of a steady minute, then five deaths and five heals."""
    limits.NODES_MAX = max(size, NODES_MAX)  # more than it takes, to show why
    cluster = SimulatedCluster(size, seed)
    for node in cluster.nodes:
        cluster.start(node)

    def settled(gone: int = 0) -> bool:
        return all(
            all(
                record.state == (State.DOWN if record.id == gone else State.UP)
                for record in node.membership.view.records.values()
            )
            for node in cluster.nodes.values()
            if node.membership is not None and node.id != gone
        )

    began_ms = cluster.now_ms
    cluster.advance(60_000, until=settled)
    start_ms = cluster.now_ms - began_ms
    messages = cluster.messages
    cluster.advance(STEADY_MS)
    per_s = (cluster.messages - messages) / size / (STEADY_MS / 1000)
    deaths, heals = [], []
    for turn in range(ROUNDS):
        # Another one each time, where there are so many: a second death of one is held back on purpose.
        gone = 1 + turn % size
        if turn >= size:
            cluster.advance(120_000)
        cluster.advance(700 * turn)
        cluster.vanish(gone)
        began_ms = cluster.now_ms
        assert cluster.advance(60_000, until=lambda gone=gone: settled(gone))
        deaths.append(cluster.now_ms - began_ms)
        cluster.start(gone)
        began_ms = cluster.now_ms
        assert cluster.advance(60_000, until=settled)
        heals.append(cluster.now_ms - began_ms)
    length = f"{per_s / 2 * question:,.0f}" if question else "?"
    total = f"{per_s / 2 * question * size * 8 / 1e6:.2f}" if question else "?"
    return (
        f"{size:6} {per_s:12.1f} {length:>14} {total:>14} {start_ms:10} "
        f"{statistics.median(deaths):8.0f} {max(deaths):6} {statistics.median(heals):8.0f} {max(heals):6}"
    )


class Measured:
    """One real etcd in a directory of its own."""

    def __init__(self) -> None:
        from ports import free_ports

        self.folder = tempfile.mkdtemp(prefix="ramster-etcd-")
        port, peer_port = free_ports(2)
        self.url, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
        with open(os.path.join(self.folder, "log"), "wb") as log:
            self.process = subprocess.Popen(
                ["etcd", "--data-dir", os.path.join(self.folder, "data"), "--listen-client-urls", self.url,
                 "--advertise-client-urls", self.url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                 "--initial-cluster", f"default={peer}"], stdout=log, stderr=log,
            )  # fmt: skip
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                self.bytes()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("etcd does not start")

    def bytes(self) -> tuple[int, int]:
        """What etcd has received and sent, without HTTP's and TCP's own."""
        text = urllib.request.urlopen(f"{self.url}/metrics", timeout=5).read().decode()
        found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("etcd_network_client_grpc"))
        return tuple(  # type: ignore[return-value]
            int(float(found[f"etcd_network_client_grpc_{way}_bytes_total"])) for way in ("received", "sent")
        )

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


async def steady(etcd: Measured, running: dict[int, tuple[Registration, asyncio.Task[None]]]) -> None:
    """What it costs that nothing happens."""
    await asyncio.sleep(5)
    before, cpu, began = await asyncio.to_thread(etcd.bytes), time.process_time(), time.monotonic()
    http = sum(found._store.bytes_in for found, _ in running.values())
    asked = sum(found._store.requests for found, _ in running.values())
    await asyncio.sleep(20)
    seconds = time.monotonic() - began
    after = await asyncio.to_thread(etcd.bytes)
    asked = sum(found._store.requests for found, _ in running.values()) - asked
    http = sum(found._store.bytes_in for found, _ in running.values()) - http
    received, sent = ((after[way] - before[way]) / seconds / len(running) for way in (0, 1))
    share = (time.process_time() - cpu) / seconds * 100
    print(
        f"steady, per node and second: {asked / seconds / len(running):.2f} requests, {received:.0f} bytes to etcd, "
        f"{sent:.0f} from it (JSON: {http / seconds / len(running):.0f}); CPU of all {len(running)}: {share:.0f} % of a core"
    )


async def registrations(count: int) -> None:
    """All of them in this process, each with a session, a lease and a watch of its own."""
    etcd = Measured()
    timing = Timing()
    table = ClusterTable(membership="etcd", etcd=(etcd.url,))
    running: dict[int, tuple[Registration, asyncio.Task[None]]] = {}

    def start(node: int) -> None:
        own = Announcement(node, f"10.0.0.{node}:7946", time.time_ns(), 8 << 30, 8 << 30)
        found = Registration(
            Registry(own, cluster="bench", timing=timing, now_ms=now_ms()), Etcd(table, deadline_ms=1333)
        )
        running[node] = (found, asyncio.create_task(found.run()))

    async def until(gone: int | None) -> float:
        began = time.monotonic()
        while True:
            if all(
                sum(record.state == State.UP for record in found.membership.view.records.values()) == len(running) - 1
                for found, _ in running.values()
            ):
                return time.monotonic() - began
            assert time.monotonic() - began < 120, f"not converged; {gone} gone"
            # Looking is 40,000 comparisons: seldom enough that it is not what is measured.
            await asyncio.sleep(0.1)

    try:
        # 200 machines would each bring a processor; here they share one.
        for node in range(1, count + 1):
            start(node)
            await asyncio.sleep(JOIN_S)
        took = await until(None)
        print(f"{count} registrations, one each {JOIN_S * 1000:.0f} ms: all see all {took:.2f} s after the last one")
        await steady(etcd, running)
        for kind in ("dies", "comes back", "leaves"):
            before = await asyncio.to_thread(etcd.bytes)
            if kind == "comes back":
                start(count)
            else:
                found, task = running.pop(count)
                if kind == "dies":
                    found._lease = None  # nobody says goodbye for it
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            took = await until(count)
            sent = (await asyncio.to_thread(etcd.bytes))[1] - before[1]
            print(f"one {kind}: all others have seen it after {took:.2f} s, {sent:,} bytes from etcd")
            await asyncio.sleep(3)
    finally:
        for _, task in running.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in running.values()), return_exceptions=True)
        etcd.end()


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--nodes", default="2,4,8,16,32")
    asked.add_argument("--registrations", type=int, default=200)
    asked.add_argument("--seed", type=int, default=1)
    flags = asked.parse_args()
    question = bytes_of_a_question()
    if question is not None:
        print(f"one question with its answer: {question[0]:.0f} bytes in {question[1]:.0f} packets")
    print(f"static, seed {flags.seed}; times in ms")
    print(" nodes  msg/node/s   bytes/node/s    all, Mbit/s   first up    death    max     back    max")
    for size in flags.nodes.split(","):
        print(static(int(size), flags.seed, question[0] if question else None), flush=True)
    if flags.registrations and shutil.which("etcd"):
        asyncio.run(registrations(flags.registrations))


if __name__ == "__main__":
    main()
