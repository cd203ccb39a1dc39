"""The sides of a comparison: a program alone, under ramster (alone or with a holder), in a memory cgroup with swap.

The program is the same file with the same arguments. What is equal: the bytes resident. What is not bounded on either
side: the compressed store (zram's memory is charged to nobody, so ramster's store is left free too).
Not: what is measured.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from bench import holders, memory_group, swap_devices
from bench.holders import Holder
from bench.machine import ROOT
from bench.memory_group import MemoryGroup
from bench.running import Job, Running, started

# Room for a store that nobody bounds.
STORE_BYTES = 8 << 30
# With a holder or a disk everything cold is to leave: what is on its way needs a little room.
STORE_IN_TRANSIT_BYTES = 4 << 20


class Side(Protocol):
    """One way to run a job."""

    name: str

    def missing(self) -> str | None: ...

    def start(self, job: Job, scratch: Path) -> AbstractContextManager[Running]: ...


class Plain:
    """The program alone."""

    name = "plain"

    def missing(self) -> str | None:
        return memory_group.missing()

    @contextmanager
    def start(self, job: Job, scratch: Path) -> Iterator[Running]:
        del scratch  # for sides that keep files beside the run
        with MemoryGroup(None) as group, started(job, group) as running:
            yield running


class UnderSwap:
    """The program in a memory cgroup of `resident_bytes` with swap."""

    def __init__(self, device: str) -> None:
        self.name = f"swap-{device}"
        self._device = device

    def missing(self) -> str | None:
        own = {"zram": swap_devices.zram_missing, "nbd": swap_devices.nbd_missing, "file": swap_devices.file_missing}
        return memory_group.missing() or own[self._device]()

    @contextmanager
    def start(self, job: Job, scratch: Path) -> Iterator[Running]:
        devices = {
            "zram": swap_devices.zram,
            "nbd": lambda: swap_devices.nbd(scratch),
            "file": lambda: swap_devices.file(scratch),
        }
        with devices[self._device]() as look, MemoryGroup(job.resident_bytes) as group, started(job, group) as running:
            running.look = look
            yield running


def preload_library() -> Path | None:
    """The newest preload library that was built here; RAMSTER_PRELOAD names another."""
    if named := os.environ.get("RAMSTER_PRELOAD"):
        return Path(named)
    found = [
        *ROOT.glob("src/ramster/_preload*.so"),
        *ROOT.glob(".venv/lib/python3*/site-packages/ramster/_preload*.so"),
        *ROOT.glob("target/release/libramster_preload.so"),
    ]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def stat_fields() -> list[str]:
    """The names of the stat block's words, from their one source."""
    source = (ROOT / "crates/engine/src/statblock.rs").read_text()
    table = re.search(r"^stats! \{$(.*?)^\}$", source, re.MULTILINE | re.DOTALL)
    assert table is not None, "crates/engine/src/statblock.rs has no table of stats"
    return re.findall(r'^\s+\w+ "(\w+)"$', table.group(1), re.MULTILINE)


def _read_stats(path: Path) -> dict[str, int]:
    raw = path.read_bytes() if path.exists() else b""
    words = [int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8)]
    return dict(zip(stat_fields(), words, strict=False))


class UnderRamster:
    """The program with the preload library, as `ramster run` starts it; with holders all cold pages go to them.

    `holders` run on `holder_cpus`; with `certified` it is one that speaks TLS alone. `durability` is the engine's word
    for it; with `disk` there is a spill directory, which without holders gets all cold pages.
    """

    def __init__(
        self,
        *,
        holders: int = 0,
        holder_cpus: frozenset[int] | None = None,
        certified: bool = False,
        durability: object = "none",
    ) -> None:
        self.name = "ramster-peer" if holders else "ramster"
        self._holders = holders
        self._holder_cpus = holder_cpus
        self._certified = certified
        self._durability = durability
        # Those that run now.
        self.running: list[Holder] = []

    def missing(self) -> str | None:
        if preload_library() is None:
            return "ramster's preload library (pip install .)"
        return (holders.missing() if self._holders else None) or memory_group.missing()

    @contextmanager
    def start(self, job: Job, scratch: Path) -> Iterator[Running]:
        library = preload_library()
        assert library is not None
        stats = scratch / "stats"
        stats.unlink(missing_ok=True)
        resident = job.resident_bytes
        leaves = self._holders > 0 or self._durability == "disk"
        store = STORE_IN_TRANSIT_BYTES if leaves else STORE_BYTES
        options: dict[str, object] = {"stat_block": str(stats), "program": job.argv[0], "durability": self._durability}
        options["local_bytes"] = (resident or STORE_BYTES) + store
        if resident is not None:
            options["resident_bytes"] = resident
        with (
            MemoryGroup(None) as group,
            self._start_holders(scratch),
            tempfile.TemporaryDirectory(dir=scratch) as spill,
        ):
            if self._durability == "disk":
                options["spill_dir"] = spill
            if self.running:
                options["peers"] = [{"node": holder.node, "address": holder.address} for holder in self.running]
                options["credentials"] = self.running[0].credentials
            environment = {"LD_PRELOAD": str(library), "RAMSTER_OPTIONS": json.dumps(options)}
            with started(job, group, environment) as running:
                running.look = lambda: _read_stats(stats)
                yield running

    @contextmanager
    def _start_holders(self, scratch: Path) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                for index in range(self._holders):
                    if self._certified:
                        holder = holders.certified(scratch, self._holder_cpus)
                    else:
                        holder = holders.plain(scratch, self._holder_cpus, holders.FIRST_NODE + index)
                    self.running.append(stack.enter_context(holder))
                yield
            finally:
                self.running.clear()
