"""The forced races (crates/pager/tests/races) and the programs that check themselves (tests/programs), over and over.

Each stops after `--soak-seconds`, or at the first round that fails. What a single round checks is said there.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from pathlib import Path

import pytest

from conftest import DEADLINE_S, need, under_ramster
from test_behaviour import PROGRAMS, built, command_of

__all__ = ["built"]  # a fixture: found here by its name

PROJECT = Path(__file__).parents[2]
BUILD_S = 1800
# Races of this many at once: more threads than cores, so that they also meet each other in unplanned places.
AT_ONCE = 4
# Little memory moves every page often, more memory lets them meet in other places.
RESIDENTS = ["8M", "16M", "24M"]


def race_binary() -> str:
    """Builds the forced races and returns where they are."""
    command = ["cargo", "test", "--locked", "--workspace", "--features", "ramster-pager/seams", "--test", "races"]
    made = subprocess.run(
        [*command, "--no-run", "--message-format=json"], cwd=PROJECT, capture_output=True, timeout=BUILD_S, check=False
    )
    assert made.returncode == 0, made.stderr.decode()
    messages = [json.loads(line) for line in made.stdout.splitlines() if line.startswith(b"{")]
    return next(
        str(one["executable"]) for one in messages if one.get("executable") and one["target"]["name"] == "races"
    )


@pytest.mark.timeout(0)
def test_forced_races(request: pytest.FixtureRequest) -> None:
    need("cargo")
    binary = race_binary()
    end = time.monotonic() + request.config.getoption("--soak-seconds")
    rounds = 0
    while time.monotonic() < end or rounds == 0:
        answer = subprocess.run([binary, f"--test-threads={AT_ONCE}"], capture_output=True, timeout=600, check=False)
        assert answer.returncode == 0, f"round {rounds}: {answer.stdout.decode()}{answer.stderr.decode()}"
        rounds += 1
    print("rounds", rounds)


@pytest.mark.timeout(0)
def test_programs(request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue("built")
    end = time.monotonic() + request.config.getoption("--soak-seconds")
    rounds = 0
    for resident, name in itertools.cycle(itertools.product(RESIDENTS, PROGRAMS)):
        if time.monotonic() >= end and rounds:
            break
        flags = ("--resident", resident)
        answer = under_ramster(command_of(folder, name), local="512M", flags=flags, timeout=DEADLINE_S)
        found = (answer.returncode, answer.stdout, answer.stderr)
        assert found == (0, b"OK\n", b""), f"{name}, round {rounds}, resident {resident}"
        rounds += 1
    print("rounds", rounds)
