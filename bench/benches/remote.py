"""The cold half on a holder over loopback TCP, against what plain TCP costs for the same pages with the same placement.

The program and everything of ramster in it on core 0, the holder on core 1; the plain client on core 0, its server on
core 1.
"""

from __future__ import annotations

import json
import os
import subprocess

from bench import compiled
from bench.benches.bench import Bench, Circumstances
from bench.benches.paging import read_pages
from bench.comparison import Metrics, Row, RunFailed, Turn, fill, in_turns
from bench.running import Outcome
from bench.sides import UnderRamster

PROGRAM_CPUS, HOLDER_CPUS = frozenset({0}), frozenset({1})
TCP_PAGES = 65536
QUICK_TCP_PAGES = 8192
PIPELINE_DEPTH = 32


def _tcp(circumstances: Circumstances, depth: int, run: int = 1) -> dict[str, float]:
    pages = QUICK_TCP_PAGES if circumstances.quick else TCP_PAGES
    argv = [compiled.program("tcp_pages", circumstances.scratch), "-p", str(pages), "-d", str(depth), "-k", str(run)]
    done = subprocess.run([*argv, "-c", "0", "-s", "1"], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise RunFailed(done.stderr.strip())
    facts = json.loads(done.stdout)
    return {"request": facts["request_us"]["mean"], "page": facts["page_us"]}


def _raw(circumstances: Circumstances) -> tuple[Metrics, Outcome | None]:
    return {
        "request": _tcp(circumstances, 1)["request"],
        "page": _tcp(circumstances, PIPELINE_DEPTH)["page"],
        "bulk_page": _tcp(circumstances, 4, 16)["page"],
    }, None


def _remote(circumstances: Circumstances) -> list[Row]:
    far = UnderRamster(holders=1, holder_cpus=HOLDER_CPUS)
    near = UnderRamster()
    cores = None if (os.cpu_count() or 1) > 1 else "a second core"

    def pages_under(side: UnderRamster) -> tuple[Metrics, Outcome]:
        return read_pages(circumstances, side, 1, cpus=PROGRAM_CPUS)

    turns = [
        Turn("A", compiled.missing() or cores or far.missing(), lambda: pages_under(far)),
        Turn("local fault", compiled.missing() or cores or near.missing(), lambda: pages_under(near)),
        Turn("TCP", compiled.missing() or cores, lambda: _raw(circumstances)),
    ]
    trials = in_turns("remote", turns, circumstances.runs)
    random = Row(
        "remote-random-mean",
        "random reads, mean of the faults",
        "TCP request and answer + a local fault",
        "us",
        1.5,
        1.15,
    )
    sequential = Row(
        "remote-sequential", "sequential read, a page", f"pipelined TCP, depth {PIPELINE_DEPTH}", "us", 2.0, 1.2
    )
    random.notes = "B is the sum of the two other turns of the same round"
    fill(random, {**trials, "B": []}, turns, "fault_mean")
    for far_trial, near_trial, raw in zip(trials["A"], trials["local fault"], trials["TCP"], strict=False):
        if far_trial.failure or near_trial.failure or raw.failure:
            continue
        random.b.append(near_trial.metrics["fault_mean"] + raw.metrics["request"])
        random.ratios.append(far_trial.metrics["fault_mean"] / random.b[-1])
    if not random.b:
        random.notes += "; here B is TCP alone"
        random.b = [raw.metrics["request"] for raw in trials["TCP"] if not raw.failure]
    renamed = {
        label: [_as_sequential(trial.metrics) for trial in found if not trial.failure]
        for label, found in trials.items()
    }
    sequential.a, sequential.b = renamed["A"], renamed["TCP"]
    sequential.ratios = [a / b for a, b in zip(sequential.a, sequential.b, strict=False)]
    sequential.missing, sequential.failures = random.missing, random.failures
    sequential.notes = "A also pushes a page out for every page that comes in; B only reads"
    return [random, sequential]


def _as_sequential(metrics: Metrics) -> float:
    return metrics["page"] if "page" in metrics else metrics["sequential"]


BENCHES = (Bench("remote", "random and sequential reads, cold half on a holder, against plain TCP", _remote),)
