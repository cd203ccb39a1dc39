"""Starts one program in a memory cgroup and says what came of it: seconds, facts it printed, peak memory, how it ended.

Not: under whom it runs (`sides`), what is measured (`benches`). A program's facts are the JSON object on its last line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.memory_group import MemoryGroup

# Enough for every line of facts; more of the output is only summed.
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Job:
    """What runs, in how much memory. `resident_bytes` None: everything fits."""

    argv: tuple[str, ...]
    resident_bytes: int | None = None
    cpus: frozenset[int] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 600.0


@dataclass
class Outcome:
    seconds: float
    returncode: int
    facts: dict[str, Any]
    peak_bytes: int
    cpu_s: float
    oom_killed: bool
    output_crc: int
    errors: str
    # What the side knows of its store: `bytes_stored_max` and counters.
    store: dict[str, int] = field(default_factory=dict)

    @property
    def failure(self) -> str | None:
        if self.oom_killed:
            return "killed for lack of memory in its cgroup"
        if self.returncode != 0:
            return f"ended with {self.returncode}: {self.errors.strip()[-300:]}"
        return None


class Running:
    """A program that was started. `finish` waits for it."""

    def __init__(self, process: subprocess.Popen[bytes], group: MemoryGroup, errors: Any, job: Job) -> None:
        self.process = process
        self.group = group
        # Set by the side: looks into its store while the program lives.
        self.look: Callable[[], dict[str, int]] = dict
        self._errors = errors
        self._started = time.monotonic()
        self._alarm = threading.Timer(job.timeout_s, self._too_late)
        self._alarm.daemon = True
        self._alarm.start()
        self._late = False

    def line(self) -> str:
        """The next line that the program prints; empty when it ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def answer(self, text: str = "\n") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def has_ended(self) -> bool:
        """Without taking the exit status away from `finish`."""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def terminate(self) -> None:
        """Asks the program to end, as an operator would."""
        os.kill(self.process.pid, signal.SIGTERM)

    def finish(self) -> Outcome:
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        tail, crc = b"", 0
        while block := self.process.stdout.read(1 << 20):
            crc = zlib.crc32(block, crc)
            tail = (tail + block)[-TAIL_BYTES:]
        store = self.look()
        _, status, usage = os.wait4(self.process.pid, 0)
        seconds = time.monotonic() - self._started
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self._alarm.cancel()
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace")
        if self._late:
            errors += f"\nstopped after {seconds:.0f} s, its limit"
        return Outcome(
            seconds=seconds,
            returncode=self.process.returncode,
            facts=_last_object(tail),
            peak_bytes=self.group.peak_bytes(),
            cpu_s=usage.ru_utime + usage.ru_stime,
            oom_killed=self.group.was_killed(),
            output_crc=crc,
            errors=errors,
            store=store,
        )

    def close(self) -> None:
        self._alarm.cancel()
        if self.process.returncode is None:
            self.group.kill()
            self.process.wait(60)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None and not stream.closed:
                stream.close()

    def _too_late(self) -> None:
        self._late = True
        self.group.kill()


def _last_object(tail: bytes) -> dict[str, Any]:
    last = tail.strip().rpartition(b"\n")[2]
    if not last.startswith(b"{"):
        return {}
    try:
        found = json.loads(last)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def started(job: Job, group: MemoryGroup, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """The program, in the group, with what `environment` adds. It is ended on the way out, whatever happens."""

    def enter() -> None:
        group.enter()
        if job.cpus is not None:
            os.sched_setaffinity(0, job.cpus)

    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            job.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **job.environment, **(environment or {})},
            preexec_fn=enter,  # no other thread lives here when a program is started
            start_new_session=True,  # a Ctrl-C is the harness's: it ends the program through the group
        )
        running = Running(process, group, errors, job)
        try:
            yield running
        finally:
            running.close()
