"""A cluster under a seeded script of failures, one at a time: nodes killed, stopped, drained, restarted, added and leaving, links
cut both ways and one way, or slowed, also those of the programs' own machine, donors that need their memory, a disk that fills.
Programs that check every byte run on it all the while: with two copies of each page, with one on disk, with shards, and with no
copy at all.

Nothing may be wrong or stuck, nothing lost but by the program without copies, which must hear of each lost page at its access,
and at the end nothing may be left on any node. `--chaos-seconds` says how long,
RAMSTER_SEED repeats a script. Needs root.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.machines import Machine, Network
from conftest import RAMSTER, need, wait_for

NODES = 5
MIB = 96
# A program keeps three quarters of what it has there, packed to a half or so, and a log has room to spare.
DISK_MIB = 160
# What each program asks for. The last one loses pages, and says how many.
DURABILITIES = ("copies=2", "disk", "ec=2+1", "none")
# A program that says nothing for this long hangs. An access waits 20 s at most by design; the machine is small and shared.
HANG_S = 45.0
HERE = Path(__file__).parent


class Program:
    """A pattern checker under `ramster run` on a machine, and what it says."""

    def __init__(
        self, machine: Machine, binary: Path, folder: Path, durability: str, disk: Path, seconds: float, seed: int
    ) -> None:
        self.durability = durability
        self.stats = folder / f"stats{seed}.json"
        words = [*RAMSTER, "run", "--local", f"{MIB // 4}M", "--durability", durability]
        words += ["--spill", str(disk)] if durability == "disk" else []
        words += ["--node", str(machine.socket), "--stats", str(self.stats)]
        words += ["--", str(binary), str(MIB), str(seconds), str(seed), *(["mourns"] if durability == "none" else [])]
        self.errors = (folder / f"program{seed}.err").open("w+b")
        self.process = subprocess.Popen(
            machine.inside(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors
        )
        self.said_at = time.monotonic()
        self.said = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said, self.said_at = line.decode().strip(), time.monotonic()

    def check(self) -> None:
        """It has not failed, and it gets on."""
        code = self.process.poll()
        assert code in (None, 0), (code, self.said, self.complaints())
        assert code == 0 or time.monotonic() - self.said_at < HANG_S, f"stuck after {self.said}: {self.complaints()}"

    def has_ended(self) -> bool:
        self.check()
        return self.process.poll() == 0

    def complaints(self) -> str:
        self.errors.seek(0)
        return self.errors.read().decode()[-2000:]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self.errors.close()


class Cluster:
    """The machines and programs, with what can happen to them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.made = random.Random(seed)
        self.network = Network()
        self.machines: list[Machine] = []
        self.programs: list[Program] = []
        self.disk = folder / "disk"
        self.next_number = NODES + 1

    def start(self) -> None:
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "ramster-chaos", str(self.disk)]
        subprocess.run(mount, check=True, timeout=20)
        for number in range(1, NODES + 1):
            self.join(number)
        self.wait_whole()

    def join(self, number: int) -> Machine:
        machine = Machine(self.network, self.folder, number)
        self.machines.append(machine)
        first = self.machines[0]
        token = None if number == 1 else first.command("token", "--dir", str(first.dir)).strip()
        machine.make(token, first, "512M")
        machine.start()
        return machine

    def run(self, binary: Path, seconds: float) -> None:
        for number, durability in enumerate(DURABILITIES):
            seed = self.made.randrange(1 << 32) * 8 + number
            home = self.machines[0]
            self.programs.append(Program(home, binary, self.folder, durability, self.disk, seconds, seed))

    def check(self) -> None:
        for program in self.programs:
            program.check()

    def sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.check()
            time.sleep(0.2)

    def wait_whole(self) -> None:
        """All nodes up, for each other, and every page with its copies."""

        def is_whole() -> bool:
            self.check()
            states = [node["state"] for node in self.machines[0].status()["nodes"]]
            return states == ["up"] * len(self.machines) and self._rebuilding() == 0

        wait_for(is_whole, "the cluster is whole", seconds=120)

    def _rebuilding(self) -> int:
        found: list[dict[str, Any]] = self.machines[0].status()["clients"]
        return sum(client["stats"].get("rebuilding", 0) for client in found)

    def donor(self) -> Machine:
        """Any machine but the first, where the programs run."""
        return self.made.choice(self.machines[1:])

    def kill(self) -> None:
        machine = self.donor()
        machine.signal(signal.SIGKILL)
        machine.wait_end(20)
        self.sleep(self.made.uniform(0, 6))
        machine.start()

    def suspend(self) -> None:
        machine = self.donor()
        machine.signal(signal.SIGSTOP)
        try:
            self.sleep(self.made.uniform(1, 15))
        finally:
            machine.signal(signal.SIGCONT)

    def cut(self) -> None:
        machine = self.donor()
        self.network.cut(machine.number)
        try:
            self.sleep(self.made.uniform(1, 15))
        finally:
            self.network.mend(machine.number)

    def mute(self) -> None:
        machine = self.donor()
        from_there = self.made.random() < 0.5
        pair = (machine.number, 1) if from_there else (1, machine.number)
        self.network.mute(*pair)
        try:
            self.sleep(self.made.uniform(1, 15))
        finally:
            self.network.unmute(*pair)

    def slow(self) -> None:
        machine = self.donor()
        self.network.slow(machine.number, self.made.choice(["5mbit", "20mbit", "100mbit"]))
        try:
            self.sleep(self.made.uniform(2, 8))
        finally:
            self.network.unslow(machine.number)

    def drain(self) -> None:
        machine = self.donor()
        machine.signal(signal.SIGTERM)
        assert machine.wait_end(60) == 0
        self.sleep(self.made.uniform(0, 4))
        machine.start()

    def busy(self) -> None:
        """Its machine needs the memory: all that it holds is recalled."""
        machine = self.donor()
        machine.command("set", "offer", "0", "--node", str(machine.socket))
        try:
            self.sleep(self.made.uniform(1, 8))
        finally:
            machine.command("set", "offer", "512M", "--node", str(machine.socket))

    def cut_home(self) -> None:
        """The programs reach nobody, for less long than a fault waits. What they need is there afterwards: holders keep it."""
        self.network.cut(1)
        try:
            self.sleep(self.made.uniform(1, 10))
        finally:
            self.network.mend(1)

    def slow_home(self) -> None:
        self.network.slow(1, self.made.choice(["20mbit", "100mbit"]))
        try:
            self.sleep(self.made.uniform(2, 8))
        finally:
            self.network.unslow(1)

    def fill_disk(self) -> None:
        filler = self.disk / "filler"
        try:
            with filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 20))
        except OSError:
            pass  # full, as it was to be
        try:
            self.sleep(self.made.uniform(2, 10))
        finally:
            filler.unlink()

    def come_and_go(self) -> None:
        """A new machine joins, lends, and leaves for good."""
        machine = self.join(self.next_number)
        self.next_number += 1
        self.wait_whole()
        self.sleep(self.made.uniform(2, 8))
        machine.command("leave", "--node", str(machine.socket), "--deadline", "50s")
        assert machine.wait_end(30) == 0
        self.machines.remove(machine)

    def restart_at_home(self) -> None:
        """The programs' own node: they go on with what it told them last."""
        self.machines[0].signal(signal.SIGKILL)
        self.machines[0].wait_end(20)
        self.sleep(self.made.uniform(0, 6))
        self.machines[0].start()

    def end(self) -> None:
        for program in self.programs:
            program.end()
        for machine in self.machines:
            machine.end()
        self.network.remove()
        subprocess.run(["umount", str(self.disk)], check=False, timeout=20)


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    need("cc")
    made = tmp_path / "pattern"
    subprocess.run(["cc", "-O2", "-o", str(made), str(HERE / "pattern.c")], check=True, timeout=60)
    return made


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    need("ip")
    need("tc")
    seed = int(os.environ.get("RAMSTER_SEED", random.randrange(1 << 32)))
    print(f"RAMSTER_SEED={seed}")
    try:
        found = Cluster(tmp_path, seed)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
    try:
        found.start()
        yield found
    finally:
        found.end()


def test_no_single_failure_makes_a_byte_wrong_loses_a_page_or_stops_a_program(
    cluster: Cluster, binary: Path, request: pytest.FixtureRequest
) -> None:
    seconds = float(request.config.getoption("--chaos-seconds"))
    started = time.monotonic()
    cluster.run(binary, seconds)
    cluster.sleep(5)
    happenings: list[Callable[[], None]] = [
        cluster.kill, cluster.suspend, cluster.cut, cluster.mute, cluster.slow, cluster.drain, cluster.restart_at_home,
        cluster.busy, cluster.cut_home, cluster.slow_home, cluster.fill_disk, cluster.come_and_go,
    ]  # fmt: skip
    only = os.environ.get("RAMSTER_CHAOS_ONLY")
    happenings = [happening for happening in happenings if only is None or happening.__name__ in only.split(",")]
    # Each once in some order, then all again.
    left: list[Callable[[], None]] = []
    count = 0
    while time.monotonic() - started < seconds - 20:
        if not left:
            left = cluster.made.sample(happenings, len(happenings))
        happening = left.pop()
        print(f"{time.monotonic() - started:7.1f} s  {happening.__name__}", flush=True)
        happening()
        count += 1
        cluster.wait_whole()
    print(f"{count} failures")
    for program in cluster.programs:
        wait_for(program.has_ended, "the program ends", seconds=seconds + 240)
        program.reader.join(20)
        stats = json.loads(program.stats.read_text())
        lost = stats["pages_lost"]
        assert program.said == f"verified {MIB * 256} pages, {lost} lost", (program.said, lost, program.complaints())
        assert lost == 0 or program.durability == "none", (program.durability, program.complaints())
        assert stats["pages_remotified"] > 1000, stats
        print(f"{program.durability}: {stats['pages_remotified']} pages remotified, {lost} lost")
    for machine in cluster.machines:
        wait_for(lambda: machine.status()["owners"] == [], f"nothing left on node {machine.number}", seconds=60)  # noqa: B023
