"""What one sees while the demonstration runs: a live picture on a terminal, plain lines elsewhere, on standard error
with `--json`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ramster.config.sizes import show

# Plain lines are for logs: often enough to see life, seldom enough to read.
PLAIN_EVERY_S = 2.0
BAR_CELLS = 50


@dataclass(frozen=True)
class Moment:
    """Where the pages are, now. Bytes are bytes of RAM."""

    phase: str
    seconds: float
    data_bytes: int
    local_limit_bytes: int
    resident_bytes: int = 0
    stored_bytes: int = 0
    remote_bytes: int = 0
    faults: int = 0
    pages_remotified: int = 0
    pages_localified: int = 0


class Screen:
    """Used as a context manager; `say` prints a line, `now` redraws."""

    def __init__(self, *, to_stderr: bool) -> None:
        self._stream: TextIO = sys.stderr if to_stderr else sys.stdout
        self._console = Console(file=self._stream, highlight=False)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True) if self._console.is_terminal else None
        )
        self._plain_at = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        """One line that stays."""
        if self._live:
            self._console.print(line, markup=False)
        else:
            print(line, file=self._stream, flush=True)

    def now(self, moment: Moment) -> None:
        """The picture of this moment."""
        if self._live:
            self._live.update(_picture(moment), refresh=True)
        elif time.monotonic() >= self._plain_at:
            self._plain_at = time.monotonic() + PLAIN_EVERY_S
            print(plain(moment), file=self._stream, flush=True)

    def clear(self) -> None:
        """Takes the picture away."""
        if self._live:
            self._live.update("", refresh=True)


def plain(moment: Moment) -> str:
    """One line for a log."""
    return (
        f"  {moment.seconds:5.1f} s  {moment.phase:<8}  "
        f"resident {show(moment.resident_bytes)}, compressed here {show(moment.stored_bytes)}, "
        f"on node 2 {show(moment.remote_bytes)}; {moment.faults:,} faults, "
        f"{moment.pages_remotified:,} pages sent, {moment.pages_localified:,} fetched"
    )


def _picture(moment: Moment) -> Group:
    rows = Table.grid(padding=(0, 2))
    widest = max(moment.local_limit_bytes, moment.resident_bytes, moment.stored_bytes, moment.remote_bytes, 1)
    for name, size_bytes, colour in (
        ("resident, node 1", moment.resident_bytes, "green"),
        ("compressed, node 1", moment.stored_bytes, "yellow"),
        ("compressed, node 2", moment.remote_bytes, "magenta"),
    ):
        cells = round(BAR_CELLS * size_bytes / widest)
        rows.add_row(name, Text("█" * cells + "·" * (BAR_CELLS - cells), style=colour), show(size_bytes))
    journeys = f"{moment.pages_remotified:,} pages sent to node 2   {moment.pages_localified:,} fetched back"
    facts = f"{moment.faults:,} faults   {journeys}"
    sizes = f"{show(moment.data_bytes)} of text in {show(moment.local_limit_bytes)} of RAM"
    title = f"{moment.phase}: {sizes}, {moment.seconds:.0f} s"
    return Group(Text(title, style="bold"), rows, Text(facts, style="dim"))
