"""What the kernel alone asks for a fault in user space, by placement, and for its ioctls; nothing of ramster."""

from __future__ import annotations

import json
import subprocess

from bench import compiled
from bench.benches.bench import Bench, Circumstances
from bench.comparison import Row

PAGES = 16384
QUICK_PAGES = 4096


def _costs(circumstances: Circumstances) -> list[Row]:
    if lacking := compiled.missing():
        return [Row("costs", "userfaultfd alone", "-", "us", None, None, missing=lacking)]
    program = compiled.program("uffd_costs", circumstances.scratch)
    pages = QUICK_PAGES if circumstances.quick else PAGES
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(circumstances.runs):
        done = subprocess.run([program, str(pages)], capture_output=True, text=True, timeout=180, check=False)
        if done.returncode != 0:
            return [
                Row("costs", "userfaultfd alone", "-", "us", None, None, missing=f"userfaultfd ({done.stderr.strip()})")
            ]
        for what, spread in json.loads(done.stdout).items():
            found.setdefault(what, []).append(spread)
    rows = []
    for what, spreads in found.items():
        row = Row(f"costs: {what}", what, "nothing", "us", None, None, notes="A is the p50, B the mean")
        row.a, row.b = [spread["p50"] for spread in spreads], [spread["mean"] for spread in spreads]
        row.details = {"A": list(spreads)}
        rows.append(row)
    return rows


BENCHES = (Bench("costs", "userfaultfd by placement, its ioctls alone (A: p50, B: mean); nothing of ramster", _costs),)
