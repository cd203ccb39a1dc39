"""The whole programs: quicksort, GNU sort, NumPy sort and k-means, a CPython dict, pandas, redis; how they are run.

Not: under whom and with how much memory (`whole`, `fits`). All are ordinary programs that know nothing of ramster.
"""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

from bench import compiled
from bench.comparison import Metrics, RunFailed, checked
from bench.running import Job, Outcome, Running
from bench.sides import Side
from bench.swap_devices import free_port

PROGRAMS = Path(__file__).resolve().parent.parent / "programs"
# One thread each, so that what runs beside the program is only what pages it.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C", "PYTHONHASHSEED": "0"}
# Of a program in RAM the slowest takes 15 s; the kernel's swap over nbd made one of them 20 times slower.
TIMEOUT_S = 420.0
QUICK_TIMEOUT_S = 90.0


def timeout_s(quick: bool) -> float:
    return QUICK_TIMEOUT_S if quick else TIMEOUT_S


class WholeProgram(ABC):
    """One program with its input. `metrics` are the keys that a run returns, all in seconds."""

    name: str
    metrics: tuple[str, ...] = ("wall",)

    @abstractmethod
    def missing(self) -> str | None: ...

    @abstractmethod
    def run(self, side: Side, resident_bytes: int | None, scratch: Path, quick: bool) -> tuple[Metrics, Outcome]: ...


class Command(WholeProgram):
    """A program that runs to its end; its wall time is the metric, its output must be the same every time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._answer: dict[bool, object] = {}

    @abstractmethod
    def argv(self, scratch: Path, quick: bool) -> tuple[str, ...]: ...

    def answer(self, outcome: Outcome) -> object:
        """What must be equal in every run."""
        return outcome.facts.get("check")

    def run(self, side: Side, resident_bytes: int | None, scratch: Path, quick: bool) -> tuple[Metrics, Outcome]:
        job = Job(self.argv(scratch, quick), resident_bytes, environment=ENVIRONMENT, timeout_s=timeout_s(quick))
        with side.start(job, scratch) as running:
            outcome = checked(running.finish())
        answer = self.answer(outcome)
        if answer != (expected := self._answer.setdefault(quick, answer)):
            raise RunFailed(f"wrong answer: {answer} in place of {expected}")
        return {"wall": outcome.seconds}, outcome


class Quicksort(Command):
    def missing(self) -> str | None:
        return compiled.missing()

    def argv(self, scratch: Path, quick: bool) -> tuple[str, ...]:
        return compiled.program("quicksort", scratch), "128" if quick else "512"


class GnuSort(Command):
    """Lines of text sorted in memory; the sorted text goes through a pipe to the harness, which sums it."""

    def missing(self) -> str | None:
        return None if shutil.which("sort") else "GNU sort (apt install coreutils)"

    def argv(self, scratch: Path, quick: bool) -> tuple[str, ...]:
        text = scratch / f"lines-{quick}"
        if not text.exists():
            _write_lines(text, (48 if quick else 192) << 20)
        return "sort", "--buffer-size=4G", str(text)

    def answer(self, outcome: Outcome) -> object:
        return outcome.output_crc


def _write_lines(path: Path, size_bytes: int) -> None:
    draw = random.Random(5)
    words = [f"{draw.getrandbits(32):x}"[: draw.randrange(2, 9)] for _ in range(5000)]
    with path.open("w") as out:
        while out.tell() < size_bytes:
            out.writelines(" ".join(draw.choices(words, k=9)) + "\n" for _ in range(20000))


class Script(Command):
    """One of the Python programs, run by the interpreter that runs the harness."""

    def __init__(
        self, name: str, script: str, needs: tuple[str, ...], full: tuple[str, ...], quick: tuple[str, ...]
    ) -> None:
        super().__init__(name)
        self._script, self._needs, self._full, self._quick = script, needs, full, quick

    def missing(self) -> str | None:
        absent = [module for module in self._needs if importlib.util.find_spec(module) is None]
        return f"{', '.join(absent)} for {sys.executable} (pip install {' '.join(absent)})" if absent else None

    def argv(self, scratch: Path, quick: bool) -> tuple[str, ...]:
        del scratch  # it makes its own data
        return sys.executable, str(PROGRAMS / self._script), *(self._quick if quick else self._full)


class Redis(WholeProgram):
    """redis-server under the side, its client outside and not paged: loads, then GETs by uniform and zipf-like keys."""

    name = "redis"
    metrics = ("uniform", "zipf")

    def missing(self) -> str | None:
        return compiled.missing() or (
            None if shutil.which("redis-server") else "redis-server (apt install redis-server)"
        )

    def run(self, side: Side, resident_bytes: int | None, scratch: Path, quick: bool) -> tuple[Metrics, Outcome]:
        port = str(free_port())
        server = (
            "redis-server",
            "--port",
            port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            str(scratch),
        )
        client = [
            compiled.program("redis_load", scratch),
            port,
            *(("100000", "30000") if quick else ("400000", "200000")),
        ]
        with side.start(
            Job(server, resident_bytes, environment=ENVIRONMENT, timeout_s=timeout_s(quick)), scratch
        ) as running:
            _wait_for(int(port), running)
            done = subprocess.run(client, capture_output=True, text=True, timeout=timeout_s(quick), check=False)
            running.terminate()
            outcome = running.finish()
        checked(outcome)
        if done.returncode != 0:
            raise RunFailed(done.stderr.strip())
        facts = json.loads(done.stdout)
        return {"uniform": facts["uniform_s"], "zipf": facts["zipf_s"]}, outcome


def _wait_for(port: int, running: Running) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if running.has_ended() or time.monotonic() > deadline:
                raise RunFailed("redis-server did not start") from None
            time.sleep(0.02)


DICT = Script("dict", "dict_of_tuples.py", (), ("2000000", "600000"), ("400000", "100000"))
NUMPY_SORT = Script("numpy-sort", "numpy_sort.py", ("numpy",), ("512",), ("128",))
GNU_SORT = GnuSort("gnu-sort")
ALL: tuple[WholeProgram, ...] = (
    Quicksort("quicksort"),
    GNU_SORT,
    NUMPY_SORT,
    Script("numpy-kmeans", "numpy_kmeans.py", ("numpy",), ("512",), ("128",)),
    DICT,
    Script("pandas", "pandas_group.py", ("numpy", "pandas"), ("8000000",), ("2000000",)),
    Redis(),
)
