"""The harness's arithmetic: pairs, missing sides, killed runs. Not: any measuring."""

from __future__ import annotations

import pytest
from bench.comparison import Metrics, OutOfMemory, Row, RunFailed, Turn, fill, in_turns
from bench.running import Outcome

Numbers = list[float | RunFailed]


def turn(label: str, numbers: Numbers, missing: str | None = None) -> Turn:
    left = iter(numbers)

    def run() -> tuple[Metrics, Outcome | None]:
        number = next(left)
        if isinstance(number, RunFailed):
            raise number
        return {"seconds": number}, None

    return Turn(label, missing, run)


def row_of(a: Turn, b: Turn, runs: int) -> Row:
    row = Row("row", "work", "peer", "s", 1.0, 0.5)
    return fill(row, in_turns("row", [a, b], runs), [a, b], "seconds")


def test_ratio_is_the_median_of_the_pairs_and_not_the_ratio_of_the_medians() -> None:
    row = row_of(turn("A", [1, 2, 30]), turn("B", [2, 8, 40]), 3)
    assert row.ratios == [0.5, 0.25, 0.75]
    assert row.ratio == 0.5
    assert row.verdict == "aim"


def test_a_missing_side_is_said_and_gives_no_ratio() -> None:
    row = row_of(turn("A", [1.0]), turn("B", [], missing="zram"), 1)
    assert row.ratio is None
    assert row.verdict == "missing: B: zram"


def test_a_run_killed_for_memory_is_counted_and_repeated() -> None:
    row = row_of(turn("A", [3.0]), turn("B", [OutOfMemory("killed"), 2.0]), 1)
    assert row.killed == {"A": 0, "B": 1}
    assert row.verdict == "NOT REACHED"


def test_wrong_bytes_are_never_repeated_until_they_are_right() -> None:
    row = row_of(turn("A", [RunFailed("wrong bytes"), 1.0]), turn("B", [2.0, 2.0]), 2)
    assert row.failures == ["A: wrong bytes"]
    assert row.ratios == pytest.approx([0.5])
    assert row.verdict == "A: wrong bytes"
