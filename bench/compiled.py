"""Compiles the small C programs of `bench/programs` when they are needed, with `cc -O2`, into a scratch directory.

Not: what they measure.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "programs"
FLAGS = ("-O2", "-Wall", "-pthread")


def missing() -> str | None:
    return None if shutil.which("cc") else "a C compiler as cc (apt install gcc)"


def program(name: str, scratch: Path) -> str:
    """The path of the compiled program. A program is compiled once a run of the harness."""
    made = scratch / name
    if not made.exists():
        subprocess.run(["cc", *FLAGS, "-o", str(made), str(SOURCES / f"{name}.c"), "-lm"], check=True, timeout=120)
    return str(made)
