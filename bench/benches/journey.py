"""Where the microseconds of a fault go: CPU time and switches of each thread for each fault of a random read.

Under ramster alone, with a holder (whose threads count too), and under swap to zram, where all of it happens in the
faulting thread. For information: what the kernel's part of a user-space fault costs alone is in `costs`.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from bench import compiled, thread_time
from bench.benches.bench import Bench, Circumstances
from bench.benches.paging import ACCESSES, PAGES, QUICK_ACCESSES, RESIDENT_BYTES
from bench.comparison import Row, RunFailed, checked
from bench.running import Job
from bench.sides import Side, UnderRamster, UnderSwap

Times = Counter[tuple[str, str]]


def _times_of_faults(circumstances: Circumstances, side: Side) -> tuple[Times, dict[str, Any], dict[str, int]]:
    """What each thread spent in the random reads alone; the program's facts; counters of the side in the same time."""
    accesses = QUICK_ACCESSES if circumstances.quick else ACCESSES
    program = compiled.program("pages", circumstances.scratch)
    argv = (program, "-p", str(PAGES), "-n", str(accesses), "-r", "-w")
    with side.start(Job(argv, RESIDENT_BYTES, timeout_s=120), circumstances.scratch) as running:
        if running.line() != "filled":
            checked(running.finish())
            raise RunFailed("the program did not get through its fill")
        before, counted = thread_time.by_thread(running.process.pid), running.look()
        running.answer()
        facts = json.loads(running.line() or "{}")
        times = thread_time.by_thread(running.process.pid)
        times.subtract(before)
        counters = {name: value - counted.get(name, 0) for name, value in running.look().items()}
        checked(running.finish())
    return times, facts, counters


def _rows(circumstances: Circumstances, where: str, side: Side) -> list[Row]:
    if lacking := compiled.missing() or side.missing():
        return [Row(f"journey-{where}", "time of each thread a fault", "-", "us", None, None, missing=lacking)]
    rows: dict[str, Row] = {}
    for _ in range(circumstances.runs):
        try:
            times, facts, counters = _times_of_faults(circumstances, side)
        except RunFailed as failed:
            return [
                Row(f"journey-{where}", "time of each thread a fault", "-", "us", None, None, failures=[str(failed)])
            ]
        faults = facts["fault_us"]["count"]
        _add(rows, f"journey-{where}: fault, mean", facts["fault_us"]["mean"], {"facts": facts, "counters": counters})
        for name, field in times:
            if field == "cpu_us" and times[name, field] > 0:
                share = {key: round(times[name, key] / faults, 3) for key in thread_time.FIELDS}
                _add(rows, f"journey-{where}: CPU of {name}", share["cpu_us"], share)
    return list(rows.values())


def _add(rows: dict[str, Row], name: str, value: float, detail: dict[str, Any]) -> None:
    row = rows.setdefault(name, Row(name, "a fault of a random read", "-", "us", None, None))
    row.a.append(value)
    row.details.setdefault("A", []).append(detail)


def _journey(circumstances: Circumstances) -> list[Row]:
    return [
        *_rows(circumstances, "local", UnderRamster()),
        *_rows(circumstances, "remote", UnderRamster(holders=1)),
        *_rows(circumstances, "zram", UnderSwap("zram")),
    ]


BENCHES = (Bench("journey", "CPU time of each thread a fault: ramster, with a holder, swap to zram", _journey),)
