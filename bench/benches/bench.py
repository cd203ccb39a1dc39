"""What a bench is: a name, what it compares, and a function from the run's circumstances to rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.comparison import Row


@dataclass(frozen=True)
class Circumstances:
    """`runs` pairs each; `quick` is smaller work, to see if all of it runs. `scratch` goes away at the end."""

    scratch: Path
    runs: int
    quick: bool


@dataclass(frozen=True)
class Bench:
    name: str
    about: str
    run: Callable[[Circumstances], list[Row]]
