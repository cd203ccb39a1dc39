"""Everything fits: what ramster costs a program from which no page has to leave, start and end of it included."""

from __future__ import annotations

import functools

from bench.benches import whole_programs
from bench.benches.bench import Bench, Circumstances
from bench.benches.whole_programs import Command
from bench.comparison import Row, Turn, fill, in_turns
from bench.sides import Plain, UnderRamster

# Two percent is near this machine's noise: it takes more pairs than the other rows.
EXTRA_RUNS = 4


def _fits(program: Command, circumstances: Circumstances) -> list[Row]:
    turns = [
        Turn(
            label,
            program.missing() or side.missing(),
            functools.partial(program.run, side, None, circumstances.scratch, circumstances.quick),
        )
        for label, side in (("A", UnderRamster()), ("B", Plain()))
    ]
    runs = circumstances.runs if circumstances.quick else circumstances.runs + EXTRA_RUNS
    trials = in_turns(f"fits-{program.name}", turns, runs)
    row = Row(f"fits-{program.name}", f"{program.name}, everything fits", "the same without ramster", "s", 1.02, 1.0)
    return [fill(row, trials, turns, "wall")]


PROGRAMS: tuple[Command, ...] = (whole_programs.NUMPY_SORT, whole_programs.GNU_SORT, whole_programs.DICT)
BENCHES = tuple(
    Bench(
        f"fits-{program.name}",
        f"{program.name} with room for all of it, against the plain program",
        functools.partial(_fits, program),
    )
    for program in PROGRAMS
)
