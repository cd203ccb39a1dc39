"""A and B in turns (ABAB...), pairs to ratios, ratios to a row with its verdict.

Not: what A and B are (`benches`), how rows are shown (`report`).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.running import Outcome

Metrics = Mapping[str, float]


class RunFailed(Exception):
    """A run that gives no number: killed, wrong bytes, over its time."""


class OutOfMemory(RunFailed):
    """The kernel killed the program because its cgroup's reclaim found nothing."""


@dataclass(frozen=True)
class Trial:
    """One run of one side: its numbers, or why there are none."""

    metrics: dict[str, float]
    # Of the last attempt; None when it gave numbers.
    failure: str | None
    # Attempts that the out-of-memory killer ended.
    killed: int
    details: dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """One side of a comparison. `missing` says what this machine lacks for it: then it is not run."""

    label: str
    missing: str | None
    run: Callable[[], tuple[Metrics, Outcome | None]]


# The kernel's reclaim in a small cgroup gives up at times and kills the program; that is counted, the run repeated.
ATTEMPTS = 4


def in_turns(name: str, turns: Sequence[Turn], runs: int) -> dict[str, list[Trial]]:
    """Every turn once, then all again, `runs` times."""
    trials: dict[str, list[Trial]] = {turn.label: [] for turn in turns}
    for index in range(runs):
        for turn in turns:
            if turn.missing is None:
                trial = _one(turn)
                trials[turn.label].append(trial)
                shown = trial.failure or ", ".join(f"{key} {value:.4g}" for key, value in trial.metrics.items())
                print(
                    f"{time.strftime('%H:%M:%S')} {name} {index + 1}/{runs} {turn.label}: {shown}",
                    file=sys.stderr,
                    flush=True,
                )
    return trials


def _one(turn: Turn) -> Trial:
    reason = ""
    for killed in range(ATTEMPTS):
        try:
            metrics, outcome = turn.run()
            return Trial(dict(metrics), None, killed, _details(outcome))
        except OutOfMemory as failed:
            reason = str(failed)
        except RunFailed as failed:
            return Trial({}, str(failed), killed, {})
    return Trial({}, reason, ATTEMPTS, {})


def _details(outcome: Outcome | None) -> dict[str, Any]:
    if outcome is None:
        return {}
    return {
        "facts": outcome.facts,
        "wall_s": round(outcome.seconds, 3),
        "cpu_s": round(outcome.cpu_s, 3),
        "peak_bytes": outcome.peak_bytes,
        "store": {name: value for name, value in outcome.store.items() if value},
    }


def checked(outcome: Outcome) -> Outcome:
    """The outcome of a run that ended well. Raises RunFailed."""
    if outcome.oom_killed:
        raise OutOfMemory(outcome.failure)
    if outcome.failure:
        raise RunFailed(outcome.failure)
    return outcome


@dataclass
class Row:
    """One line of the table: the ratio A/B of `metric`, smaller is better."""

    name: str
    workload: str
    against: str
    unit: str
    must: float | None
    aim: float | None
    a: list[float] = field(default_factory=list)
    b: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    missing: str | None = None
    failures: list[str] = field(default_factory=list)
    # Runs that the kernel's out-of-memory killer ended, by side; they were repeated.
    killed: dict[str, int] = field(default_factory=dict)
    notes: str = ""
    details: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def verdict(self) -> str:
        if bad := [failure for failure in self.failures if failure.startswith("A: ")]:
            return bad[0]
        if self.must is None and (self.a or self.b):
            return "for information"
        if self.ratio is None:
            return (self.missing and f"missing: {self.missing}") or (
                self.failures[0] if self.failures else "no pair of runs"
            )
        if self.must is None or self.aim is None:
            return "for information"
        return "aim" if self.ratio <= self.aim else "must" if self.ratio <= self.must else "NOT REACHED"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "verdict": self.verdict}


def fill(row: Row, trials: Mapping[str, list[Trial]], turns: Sequence[Turn], metric: str) -> Row:
    """The row with the numbers of turns "A" and "B"; a pair counts when both its runs gave a number."""
    a, b = trials["A"], trials["B"]
    row.a = [trial.metrics[metric] for trial in a if metric in trial.metrics]
    row.b = [trial.metrics[metric] for trial in b if metric in trial.metrics]
    row.ratios = [
        ta.metrics[metric] / tb.metrics[metric]
        for ta, tb in zip(a, b, strict=False)
        if metric in ta.metrics and tb.metrics.get(metric)
    ]
    row.missing = "; ".join(f"{turn.label}: {turn.missing}" for turn in turns if turn.missing) or None
    row.failures = [f"{label}: {trial.failure}" for label in trials for trial in trials[label] if trial.failure]
    row.killed = {label: sum(trial.killed for trial in found) for label, found in trials.items()}
    row.details = {label: [trial.details for trial in found] for label, found in trials.items()}
    return row
