"""Whole programs at 50 % and 25 % of what they use: against swap to zram; with a holder, against swap over TCP.

The limit is a share of the peak that the plain program reached just before. Not: the programs (`whole_programs`).
"""

from __future__ import annotations

import functools
import statistics

from bench.benches import whole_programs
from bench.benches.bench import Bench, Circumstances
from bench.benches.whole_programs import WholeProgram
from bench.comparison import Row, RunFailed, Turn, fill, in_turns
from bench.sides import Plain, UnderRamster, UnderSwap

PERCENTS = (50, 25)
# One pass over all programs takes several minutes: more pairs than this tell less than a second whole run does.
MOST_RUNS = 3
AGAINST = {"zram": "swap to zram, lz4", "nbd": "swap on nbdkit over TCP, nbdfuse, loop"}
MUST_AIM = {"zram": (1.0, 0.6), "nbd": (0.5, 0.3)}


@functools.cache
def _peak_bytes(program: WholeProgram, circumstances: Circumstances) -> int:
    """What the plain program uses at most."""
    return program.run(Plain(), None, circumstances.scratch, circumstances.quick)[1].peak_bytes


def _rows(program: WholeProgram, device: str) -> list[Row]:
    must, aim = MUST_AIM[device]
    prefix = "whole" if device == "zram" else "peer"
    rows = []
    for percent in PERCENTS:
        for metric in program.metrics:
            name = program.name if len(program.metrics) == 1 else f"{program.name}-{metric}"
            rows.append(
                Row(f"{prefix}-{name}-{percent}", f"{name}, {percent} % local", AGAINST[device], "s", must, aim)
            )
    return rows


def _whole(program: WholeProgram, device: str, circumstances: Circumstances) -> list[Row]:
    rows = _rows(program, device)
    a, b = UnderRamster(holders=int(device == "nbd")), UnderSwap(device)
    lacking = program.missing() or Plain().missing()
    peak = 0
    if lacking is None:
        try:
            peak = _peak_bytes(program, circumstances)
        except RunFailed as failed:
            lacking = f"a plain run that ends well ({failed})"
    at = 0
    for percent in PERCENTS:
        resident = peak * percent // 100 // 4096 * 4096
        job = (resident, circumstances.scratch, circumstances.quick)
        turns = [
            Turn(label, lacking or side.missing(), functools.partial(program.run, side, *job))
            for label, side in (("A", a), ("B", b))
        ]
        trials = in_turns(f"{rows[at].name}", turns, min(circumstances.runs, MOST_RUNS))
        for metric in program.metrics:
            rows[at].notes = f"{resident >> 20} of {peak >> 20} MiB resident"
            fill(rows[at], trials, turns, metric)
            at += 1
    return rows


def geometric_means(rows: list[Row]) -> list[Row]:
    """Over the whole programs that gave a ratio, one row for each peer."""
    found = []
    for prefix, device in (("peer-", "nbd"), ("whole-", "zram")):
        ratios = [
            row.ratio for row in rows if row.name.startswith(prefix) and AGAINST[device] == row.against and row.ratio
        ]
        if ratios:
            must, aim = MUST_AIM[device]
            row = Row(f"{prefix}geometric-mean", f"{len(ratios)} rows above", AGAINST[device], "", must, aim)
            row.ratios = [statistics.geometric_mean(ratios)]
            found.append(row)
    return found


def _bench(program: WholeProgram, device: str) -> Bench:
    prefix = "whole" if device == "zram" else "peer"
    about = f"{program.name} at 50 % and 25 % local, against {AGAINST[device]}"
    return Bench(f"{prefix}-{program.name}", about, functools.partial(_whole, program, device))


BENCHES = tuple(_bench(program, device) for device in ("zram", "nbd") for program in whole_programs.ALL)
