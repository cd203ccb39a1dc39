"""Shows rows as a table and keeps them as JSON, with the machine named.

Not: the numbers themselves (`comparison`).
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.comparison import Row

RESULTS = Path(__file__).resolve().parent / "results"
HEADS = ("row", "A", "B", "A / B", "must", "aim", "verdict")


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    return f"{value:.3g} {unit}".strip() if value < 1000 else f"{value:.0f} {unit}".strip()


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def cells(row: Row) -> tuple[str, ...]:
    failed = f" ({len(row.failures)} runs failed)" if row.failures and row.ratio is not None else ""
    failed += "".join(f" ({label} killed {count} times)" for label, count in row.killed.items() if count)
    return (
        row.name,
        _number(_median(row.a), row.unit),
        _number(_median(row.b), row.unit),
        _number(row.ratio),
        _number(row.must),
        _number(row.aim),
        row.verdict + failed,
    )


def table(rows: Sequence[Row]) -> str:
    """A Markdown table: A is ramster, B is the peer, both medians; A / B is the median of the pairs' ratios."""
    lines = [HEADS, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    shown.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(shown)


def whole(machine: dict[str, object], settings: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    return {"machine": machine, "settings": settings, "rows": [row.as_json() for row in rows]}


def keep(found: dict[str, Any], rows: Sequence[Row], path: Path | None) -> Path:
    """Writes the JSON, and the table beside it. Returns the JSON's path."""
    if path is None:
        cpu = re.sub(r"[^a-z0-9]+", "-", str(found["machine"]["cpu"]).lower()).strip("-")
        path = RESULTS / f"{time.strftime('%Y-%m-%d-%H%M')}-{cpu}-{found['machine']['cores']}-cores.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    title = f"{found['machine']['cpu']}, {found['machine']['cores']} cores, kernel {found['machine']['kernel']}"
    settings = json.dumps({**found["machine"]["settings"], **found["settings"]})
    path.with_suffix(".md").write_text(
        f"# {title}\n\nCommit {found['machine']['commit']}. {settings}\n\n{table(rows)}\n"
    )
    return path
