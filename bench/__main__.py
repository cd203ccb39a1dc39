"""`python -m bench`: picks benches, runs them, shows the table, keeps the results.

Not: any measuring. Exit code 0 when every bench ran, missing peers included; 1 when a run failed; 2 for bad usage;
130 after Ctrl-C, which keeps the benches that had ended.
"""

from __future__ import annotations

import argparse
import fcntl
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from bench import report
from bench.benches import ALL
from bench.benches.bench import Bench, Circumstances
from bench.benches.whole import geometric_means
from bench.comparison import Row
from bench.machine import describe
from bench.sides import preload_library

# Two runs at once would measure each other.
LOCK = Path("/tmp/ramster-bench.lock")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="A/B ratios of ramster against its peers, taken in turns."
    )
    parser.add_argument("--list", action="store_true", help="name the benches and end")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only benches whose name begins so; may be given again"
    )
    parser.add_argument("--runs", type=int, metavar="N", help="pairs of each comparison (5; with --quick 1)")
    parser.add_argument(
        "--quick", action="store_true", help="smaller work and one pair: does everything run? nothing is kept"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the JSON here instead of bench/results")
    return parser.parse_args()


def _chosen(parser_only: list[str] | None) -> list[Bench]:
    if not parser_only:
        return list(ALL)
    chosen = [bench for bench in ALL if any(bench.name.startswith(name) for name in parser_only)]
    for name in parser_only:
        if not any(bench.name.startswith(name) for bench in ALL):
            print(
                f"--only {name}: no bench begins so; known are {', '.join(bench.name for bench in ALL)}",
                file=sys.stderr,
            )
            raise SystemExit(2)
    return chosen


def _stop(_signal: int, _frame: object) -> NoReturn:
    # Unwinds through every `with`: swap off, cgroups and devices away.
    raise KeyboardInterrupt


def _run(benches: list[Bench], circumstances: Circumstances) -> tuple[list[Row], bool]:
    """The rows of all benches that ran to their end, and whether Ctrl-C or SIGTERM cut that short."""
    rows: list[Row] = []
    try:
        for bench in benches:
            rows += bench.run(circumstances)
    except KeyboardInterrupt:
        return rows + geometric_means(rows), True
    return rows + geometric_means(rows), False


def main() -> int:
    arguments = _arguments()
    if arguments.list:
        width = max(len(bench.name) for bench in ALL)
        print("\n".join(f"{bench.name:<{width}}  {bench.about}" for bench in ALL))
        return 0
    runs = arguments.runs if arguments.runs is not None else 1 if arguments.quick else 5
    if runs < 1:
        print(f"--runs {runs}: must be 1 or more", file=sys.stderr)
        return 2
    benches = _chosen(arguments.only)
    signal.signal(signal.SIGTERM, _stop)
    machine = describe()
    with LOCK.open("w") as lock, tempfile.TemporaryDirectory(prefix="ramster-bench-") as scratch:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"another run of the harness holds {LOCK}; wait for its end", file=sys.stderr)
            return 1
        rows, stopped = _run(benches, Circumstances(Path(scratch), runs, arguments.quick))
    if stopped:
        print("stopped; everything was put back, and the benches that had ended count", file=sys.stderr)
    if stopped and not rows:
        return 130
    print(report.table(rows))
    library = preload_library()
    pinning = "none; in remote: the program on core 0, holder and TCP server on core 1"
    settings = {
        "runs": runs,
        "quick": arguments.quick,
        "preload": library.name if library else None,
        "pinning": pinning,
        "stopped": stopped,
    }
    if arguments.out or not arguments.quick:
        path = report.keep(report.whole(machine, settings, rows), rows, arguments.out)
        print(f"kept in {path}")
    if stopped:
        return 130
    return 1 if any(row.failures for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
