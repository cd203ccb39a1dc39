"""What being a cluster costs: certificates, copies and the disk beside a single plain copy, a busy holder, many clients of one.

The program and everything of ramster in it on core 0, holders on core 1. A seals its pages on both sides of every row:
there is no link without; what sealing alone costs is `seal`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench import compiled, holders
from bench.benches.bench import Bench, Circumstances
from bench.benches.paging import read_pages
from bench.benches.remote import HOLDER_CPUS, PROGRAM_CPUS
from bench.comparison import Metrics, Row, RunFailed, Turn, fill, in_turns
from bench.running import Outcome
from bench.sides import Side, UnderRamster, UnderSwap

CLIENTS = (1, 4, 16, 64)
CLIENT_SECONDS = 5
IDLE_SECONDS = 10


def _side(*, count: int = 1, certified: bool = False, durability: object = "none") -> UnderRamster:
    return UnderRamster(holders=count, holder_cpus=HOLDER_CPUS, certified=certified, durability=durability)


def _missing(side: UnderRamster) -> str | None:
    cores = None if (os.cpu_count() or 1) > 1 else "a second core"
    return compiled.missing() or cores or side.missing()


def _pair(
    circumstances: Circumstances, name: str, a: UnderRamster, b: UnderRamster, rows: list[tuple[Row, str]]
) -> list[Row]:
    def turn(label: str, side: UnderRamster) -> Turn:
        return Turn(label, _missing(side), lambda: read_pages(circumstances, side, 1, cpus=PROGRAM_CPUS))

    turns = [turn("A", a), turn("B", b)]
    trials = in_turns(name, turns, circumstances.runs)
    return [fill(row, trials, turns, metric) for row, metric in rows]


PLAIN = "the same over plain TCP"


def _tls(circumstances: Circumstances) -> list[Row]:
    rows = [
        (Row("tls-fault", "random reads, cold half on a holder over TLS: mean", PLAIN, "us", 1.25, 1.1), "fault_mean"),
        (
            Row("tls-sequential", "sequential read from a holder over TLS, a page", PLAIN, "us", None, None),
            "sequential",
        ),
        (Row("tls-bulk", "fill, half of it remotified over TLS on the way", PLAIN, "s", 1.4, 1.2), "fill"),
    ]
    return _pair(circumstances, "tls", _side(certified=True), _side(), rows)


def _durable(circumstances: Circumstances) -> list[Row]:
    one = "one copy at one holder"
    copies = [
        (Row("copies2-fault", "random reads, two copies: mean of the faults", one, "us", 1.05, 1.0), "fault_mean"),
        (Row("copies2-fill", "fill, half of it remotified in two copies", one, "s", None, None), "fill"),
    ]
    disk = [
        (Row("disk-fault", "random reads, a copy on disk too: mean of the faults", one, "us", 1.05, 1.0), "fault_mean"),
        (Row("disk-fill", "fill, half of it remotified and written to disk", one, "s", None, None), "fill"),
    ]
    return [
        *_pair(circumstances, "copies2", _side(count=2, durability={"copies": 2}), _side(count=2), copies),
        *_pair(circumstances, "disk", _side(durability="disk"), _side(), disk),
        *_on_disk(circumstances),
    ]


def _on_disk(circumstances: Circumstances) -> list[Row]:
    """The cold half on disk alone. Nothing is pinned: where threads run is part of both sides."""
    sides: dict[str, Side] = {"A": UnderRamster(durability="disk"), "B": UnderSwap("file")}

    def turn(label: str, side: Side) -> Turn:
        missing = compiled.missing() or side.missing()
        return Turn(label, missing, lambda: read_pages(circumstances, side, 1))

    turns = [turn(label, side) for label, side in sides.items()]
    trials = in_turns("on-disk", turns, circumstances.runs)
    swap = "swap to a file of the same disk, in a 256 MiB memory cgroup"
    rows = [
        (
            Row("on-disk-fault", "random reads, cold half on disk: mean of the faults", swap, "us", 1.0, None),
            "fault_mean",
        ),
        (Row("on-disk-p99", "the same, p99", swap, "us", None, None), "fault_p99"),
        (Row("on-disk-sequential", "sequential read from disk, a page", swap, "us", 1.0, None), "sequential"),
        (Row("on-disk-fill", "fill, half of it written to disk", swap, "s", None, None), "fill"),
    ]
    return [fill(row, trials, turns, metric) for row, metric in rows]


@contextmanager
def _busy(cpus: frozenset[int]) -> Iterator[None]:
    """A process that does nothing but compute, on these cores."""
    spinning = subprocess.Popen(
        ["sh", "-c", "while :; do :; done"],
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(spinning.pid, signal.SIGKILL)
        spinning.wait(10)


def _busy_holder(circumstances: Circumstances) -> list[Row]:
    side = _side()

    def under_load() -> tuple[Metrics, Outcome]:
        with _busy(HOLDER_CPUS):
            return read_pages(circumstances, side, 1, cpus=PROGRAM_CPUS)

    lacking = _missing(side)
    turns = [
        Turn("A", lacking, under_load),
        Turn("B", lacking, lambda: read_pages(circumstances, side, 1, cpus=PROGRAM_CPUS)),
    ]
    trials = in_turns("busy", turns, circumstances.runs)
    idle = "the same, the holder's core idle"
    return [
        fill(
            Row("busy-fault", "random reads, the holder's core computing: mean", idle, "us", None, None),
            trials,
            turns,
            metric,
        )
        if metric == "fault_mean"
        else fill(Row("busy-p99", "the same, p99", idle, "us", None, None), trials, turns, metric)
        for metric in ("fault_mean", "fault_p99")
    ]


def _serve(circumstances: Circumstances, program: str, clients: int) -> tuple[float, float, float]:
    """Microseconds a page for each client, pages a second of all, and the holder's CPU microseconds a page."""
    seconds = 1 if circumstances.quick else CLIENT_SECONDS
    with holders.plain(circumstances.scratch, HOLDER_CPUS) as holder:
        before = holders.cpu_s(holder.pid)
        done = subprocess.run(
            [program, holder.address, str(clients), str(seconds)],
            capture_output=True,
            text=True,
            timeout=60 + seconds,
            check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, PROGRAM_CPUS),
        )
        spent = holders.cpu_s(holder.pid) - before
    if done.returncode != 0:
        raise RunFailed(done.stderr.strip()[-300:])
    facts = json.loads(done.stdout)
    return facts["page_us"], facts["pages_per_s"], spent * 1e6 / facts["pages"]


def _many(circumstances: Circumstances) -> list[Row]:
    if lacking := _missing(_side()) or compiled.missing_cargo():
        return [Row("clients", "one holder, many clients", "-", "us", None, None, missing=lacking)]
    program = compiled.example("ramster-peer", "clients")
    rows = []
    for clients in CLIENTS:
        row = Row(
            f"clients-{clients}", f"{clients} clients of one holder, a page at a time each", "-", "us", None, None
        )
        row.notes = "A: time of a page for each client; B: the holder's CPU time a page"
        for _ in range(circumstances.runs):
            page_us, pages_per_s, cpu_us = _serve(circumstances, program, clients)
            row.a.append(page_us)
            row.b.append(cpu_us)
            row.details.setdefault("A", []).append({"pages_per_s": pages_per_s})
        rows.append(row)
    return [*rows, _idle(circumstances)]


def _idle(circumstances: Circumstances) -> Row:
    """What a holder takes from its own machine while it lends and nobody asks."""
    row = Row("idle-holder", "a holder that nobody asks: its CPU time a second", "3 % of one core", "ms", 1.0, 0.1)
    seconds = 2 if circumstances.quick else IDLE_SECONDS
    for _ in range(circumstances.runs):
        with holders.plain(circumstances.scratch, HOLDER_CPUS) as holder:
            time.sleep(1)  # its start is over
            before = holders.cpu_s(holder.pid)
            time.sleep(seconds)
            spent_ms = (holders.cpu_s(holder.pid) - before) * 1000 / seconds
        row.a.append(spent_ms)
        row.b.append(30.0)
        row.ratios.append(spent_ms / 30.0)
    return row


def _seal(circumstances: Circumstances) -> list[Row]:
    if lacking := compiled.missing_cargo():
        return [Row("seal", "sealing a page", "-", "us", None, None, missing=lacking)]
    program = compiled.example("ramster-core", "sealing")
    rows: dict[str, Row] = {}
    for _ in range(circumstances.runs):
        done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=True)
        for length, spent in json.loads(done.stdout).items():
            what = f"sealing {length} bytes, and opening them"
            row = rows.setdefault(length, Row(f"seal-{length}", what, "-", "us", None, None))
            row.a.append(spent["seal_us"])
            row.b.append(spent["open_us"])
            row.notes = "A: to seal; B: to open"
    return list(rows.values())


BENCHES = (
    Bench("seal", "sealing a page and opening it again (A: sealing, B: opening)", _seal),
    Bench("tls", "remote faults and bulk remotifying with certificates, against plain links", _tls),
    Bench("durable", "faults with two copies, with one on disk too, and from disk alone against swap to it", _durable),
    Bench("busy", "remote faults while the holder's core computes, against an idle one", _busy_holder),
    Bench("clients", "one holder serving 1 to 64 clients, and what it takes when idle", _many),
)
