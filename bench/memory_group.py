"""One memory cgroup for one run of one program: its limit, its peak, and the one sure list of the processes to end.

Covers cgroup v1 only, where the machines that we measure on have their memory controller. Not: swap devices.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup/memory")
_serial = itertools.count()


def missing() -> str | None:
    """Why no memory cgroup can be made here, or None."""
    if os.geteuid() != 0:
        return "root, to make a memory cgroup"
    if not (MOUNT / "memory.limit_in_bytes").exists():
        return f"a version 1 memory cgroup controller at {MOUNT}"
    return None


class MemoryGroup:
    """Every process that enters it, and their children, share one limit; leaving the `with` ends them all."""

    def __init__(self, limit_bytes: int | None) -> None:
        self.path = MOUNT / f"ramster-bench-{os.getpid()}-{next(_serial)}"
        self.limit_bytes = limit_bytes

    def __enter__(self) -> MemoryGroup:
        self.path.mkdir()
        # Prefer swapping to dropping the program's own text: its file pages are few and not what is measured.
        self._write("memory.swappiness", 100)
        if self.limit_bytes is not None:
            self._write("memory.limit_in_bytes", self.limit_bytes)
        return self

    def __exit__(self, *_exc: object) -> None:
        deadline = time.monotonic() + 60
        while True:
            self.kill()
            try:
                self.path.rmdir()
                return
            except OSError:
                # The kernel still takes the processes apart; a 512 MiB one that was swapped out needs its time.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def enter(self) -> None:
        """For the child between fork and exec."""
        self._write("cgroup.procs", os.getpid())

    def kill(self) -> None:
        """Ends what is in the group and nothing else."""
        for pid in (self.path / "cgroup.procs").read_text().split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass

    def peak_bytes(self) -> int:
        """The most that was ever charged: anonymous pages, and file pages touched here first. Not zram's memory."""
        return int((self.path / "memory.max_usage_in_bytes").read_text())

    def used_bytes(self) -> int:
        return int((self.path / "memory.usage_in_bytes").read_text())

    def was_killed(self) -> bool:
        """Whether the kernel's out-of-memory killer ended a process of this group."""
        for line in (self.path / "memory.oom_control").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count) > 0
        return False

    def _write(self, name: str, value: int) -> None:
        (self.path / name).write_text(str(value))
