"""Compiles what the benches run: the small C programs of `bench/programs` with `cc -O2`, examples of our crates.

Not: what they measure.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench.machine import ROOT

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


def missing_cargo() -> str | None:
    return None if shutil.which("cargo") else "Rust's cargo"


def example(package: str, name: str) -> str:
    """The path of an example program of one of our crates, built for release."""
    command = ["cargo", "build", "--release", "--locked", "-q", "-p", package, "--example", name]
    subprocess.run(command, check=True, timeout=1200, cwd=ROOT)
    return str(ROOT / "target/release/examples" / name)
