"""512 MiB of half-compressible pages, 256 MiB resident, the rest compressed locally: ramster against swap to zram.

Fill, sequential read, random read by one thread and by two. Nothing is pinned: where threads run is part of both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench import compiled
from bench.benches.bench import Bench, Circumstances
from bench.comparison import Metrics, Row, Turn, checked, fill, in_turns
from bench.running import Job, Outcome
from bench.sides import Side, UnderRamster, UnderSwap

PAGES = 131072
RESIDENT_BYTES = 256 << 20
ACCESSES = 200_000
QUICK_ACCESSES = 20_000


def metrics_of(facts: dict[str, Any]) -> dict[str, float]:
    """The figures of `pages.c`. A fault is an access to a page that pagemap did not show as mapped."""
    faults = facts.get("fault_us") or {"mean": 0.0, "p99": 0.0}
    return {
        "fault_mean": faults["mean"],
        "fault_p99": faults["p99"],
        "access": facts["access_us"],
        "loop": facts["loop_us"],
        "sequential": facts["sequential_us"],
        "fill": facts["fill_s"],
    }


def read_pages(circumstances: Circumstances, side: Side, threads: int, **job: Any) -> tuple[Metrics, Outcome]:
    """One run of `pages` under a side."""
    program = compiled.program("pages", circumstances.scratch)
    accesses = QUICK_ACCESSES if circumstances.quick else ACCESSES
    argv = (program, "-p", str(PAGES), "-n", str(accesses), "-t", str(threads))
    with side.start(Job(argv, RESIDENT_BYTES, timeout_s=180, **job), circumstances.scratch) as running:
        outcome = checked(running.finish())
    return metrics_of(outcome.facts), outcome


def _against_zram(circumstances: Circumstances, name: str, threads: int, rows: Sequence[tuple[Row, str]]) -> list[Row]:
    sides: dict[str, Side] = {"A": UnderRamster(), "B": UnderSwap("zram")}

    def turn(label: str, side: Side) -> Turn:
        missing = compiled.missing() or side.missing()
        return Turn(label, missing, lambda: read_pages(circumstances, side, threads))

    turns = [turn(label, side) for label, side in sides.items()]
    trials = in_turns(name, turns, circumstances.runs)
    return [fill(row, trials, turns, metric) for row, metric in rows]


ZRAM = "swap to zram, lz4, in a 256 MiB memory cgroup"


def _local(circumstances: Circumstances) -> list[Row]:
    return _against_zram(
        circumstances,
        "local",
        1,
        [
            (Row("local-random-mean", "random 4 KiB reads, mean of the faults", ZRAM, "us", 0.9, 0.5), "fault_mean"),
            (Row("local-random-p99", "random 4 KiB reads, p99 of the faults", ZRAM, "us", 0.3, 0.1), "fault_p99"),
            (Row("local-random-access", "random 4 KiB reads, mean of all accesses", ZRAM, "us", None, None), "access"),
            (Row("local-sequential", "sequential read, a page", ZRAM, "us", 0.5, 0.25), "sequential"),
            (Row("local-fill", "fill: first touch and write of all pages", ZRAM, "s", 1.2, 0.8), "fill"),
        ],
    )


def _threads(circumstances: Circumstances) -> list[Row]:
    return _against_zram(
        circumstances,
        "threads",
        2,
        [
            (Row("threads-random", "random reads by 2 threads, time an access of both", ZRAM, "us", 1.0, 0.6), "loop"),
            (Row("threads-random-mean", "the same, mean of the faults", ZRAM, "us", None, None), "fault_mean"),
        ],
    )


BENCHES = (
    Bench("local", "fill, sequential and random reads, cold half compressed locally, against swap to zram", _local),
    Bench("threads", "random reads by two threads, against swap to zram", _threads),
)
