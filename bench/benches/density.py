"""Bytes of store for each page kept, the same pages with the same codec: ramster's store against zram's mem_used_total.

Both are looked at while the program sleeps after its fill. Two contents: the half-compressible pages, and text of this
machine.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench import compiled
from bench.benches.bench import Bench, Circumstances
from bench.benches.paging import PAGES, RESIDENT_BYTES
from bench.comparison import Metrics, Row, RunFailed, Turn, checked, fill, in_turns
from bench.running import Job, Outcome, Running
from bench.sides import Side, UnderRamster, UnderSwap

TEXT_ROOT = "/usr/lib/python3"
TEXT_BYTES = 256 << 20


def _text(scratch: Path) -> Path:
    """Python sources of this machine end to end, as often as they are needed."""
    made = scratch / "text"
    if made.exists():
        return made
    with made.open("wb") as out:
        for root in (TEXT_ROOT, os.path.dirname(os.__file__), "/usr/share"):
            for folder, _, names in sorted(os.walk(root)):
                for name in sorted(names):
                    path = os.path.join(folder, name)
                    if name.endswith((".py", ".txt", ".pl", ".pm", ".h")) and os.path.isfile(path):
                        out.write(Path(path).read_bytes())
                        if out.tell() > TEXT_BYTES:
                            return made
    return made


def _settled(running: Running) -> dict[str, int]:
    """The store when nothing moves any more: eviction off the fault path goes on for a moment after the fill."""
    deadline = time.monotonic() + 5
    found = running.look()
    while True:
        time.sleep(0.3)
        before, found = found, running.look()
        if found == before:
            return found
        if time.monotonic() > deadline:
            raise RunFailed("the store does not come to rest after the fill")


def _bytes_a_page(circumstances: Circumstances, side: Side, source: Path | None) -> tuple[Metrics, Outcome]:
    program = compiled.program("pages", circumstances.scratch)
    argv = (program, "-p", str(PAGES), "-w", *(("-f", str(source)) if source else ()))
    with side.start(Job(argv, RESIDENT_BYTES, timeout_s=120), circumstances.scratch) as running:
        if running.line() != "filled":
            checked(running.finish())
            raise RunFailed("the program did not get through its fill")
        found = _settled(running)
        stored = found.get("bytes_stored", 0)
        # What is not resident is stored; ramster's stat block counts resident bytes, zram its pages.
        pages = found["pages_stored"] if "pages_stored" in found else PAGES - found.get("bytes_resident", 0) // 4096
        used = running.group.used_bytes()
        running.answer()
        outcome = checked(running.finish())
    if pages <= 0 or stored <= 0:
        raise RunFailed(f"nothing is stored: {found}")
    return {"bytes_a_page": stored / pages, "pages": pages, "group_bytes": used}, outcome


def _density(circumstances: Circumstances) -> list[Row]:
    rows = []
    for name, source in (("density-half", None), ("density-text", _text(circumstances.scratch))):
        turns = []
        for label, side in (("A", UnderRamster()), ("B", UnderSwap("zram"))):
            assert isinstance(side, UnderRamster | UnderSwap)

            def run(side: Side = side, source: Path | None = source) -> tuple[Metrics, Outcome]:
                return _bytes_a_page(circumstances, side, source)

            turns.append(Turn(label, compiled.missing() or side.missing(), run))
        trials = in_turns(name, turns, min(circumstances.runs, 3))
        row = Row(
            name,
            f"bytes of store a page, {'text' if source else 'half-compressible pages'}",
            "zram mem_used_total",
            "B",
            1.0,
            0.9,
        )
        rows.append(fill(row, trials, turns, "bytes_a_page"))
    return rows


BENCHES = (Bench("density", "bytes of store a page, against zram's mem_used_total", _density),)
