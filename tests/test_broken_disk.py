"""A spill directory on a disk that fails and hangs: ext4 on a device whose errors and pauses are switched on from outside.

Not: full disks (`crates/engine/tests/spill.rs`, the chaos suite) and damaged records (the same).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import RAMSTER, need, wait_for

MIB = 32
PATTERN = Path(__file__).parent / "chaos" / "pattern.c"


class Disk:
    """The directory, with what can happen to the device under it."""

    def __init__(self, folder: Path) -> None:
        self.dir, self._control, self._errors = folder / "mounted", folder / "control", folder / "errors"

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Every read and write of the device fails with EIO."""
        self._errors.touch()
        try:
            yield
        finally:
            self._errors.unlink()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """The device answers nothing."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(20)
            control.connect(str(self._control))
            self._say(control, b"p", b"P")
            try:
                yield
            finally:
                self._say(control, b"r", b"R")

    @staticmethod
    def _say(control: socket.socket, word: bytes, answer: bytes) -> None:
        control.sendall(word)
        assert control.recv(1) == answer


def _unmounted(device: Path) -> bool:
    """The loop device above it lets go a moment after its own file system was unmounted."""
    return (
        subprocess.run(
            ["fusermount3", "-u", str(device)], check=False, stderr=subprocess.DEVNULL, timeout=20
        ).returncode
        == 0
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    for tool in ("nbdkit", "nbdfuse", "fusermount3", "mkfs.ext4", "cc"):
        need(tool)
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse here")
    device, disk = tmp_path / "device", Disk(tmp_path)
    device.touch()
    disk.dir.mkdir()
    server = ["nbdkit", "--filter=pause", "--filter=error", "memory", "256M", "error=EIO", "error-rate=100%"]
    server += [f"error-file={tmp_path / 'errors'}", f"pause-control={tmp_path / 'control'}"]
    with contextlib.ExitStack() as undo:
        errors = undo.enter_context((tmp_path / "nbdkit.err").open("wb"))
        served = subprocess.Popen(["nbdfuse", str(device), "[", *server, "]"], stdin=subprocess.DEVNULL, stderr=errors)
        undo.callback(served.wait, 20)
        undo.callback(wait_for, lambda: _unmounted(device), "the device is let go of")
        wait_for(lambda: served.poll() is not None or device.stat().st_size > 0, "the device is there")
        if served.poll() is not None:
            pytest.skip(f"nbdfuse: {(tmp_path / 'nbdkit.err').read_text().strip()}")
        # Without a journal, and going on after errors: the file system itself must be well again when the device is.
        subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", str(device)], check=True, timeout=60)
        subprocess.run(["mount", "-o", "loop,errors=continue", str(device), str(disk.dir)], check=True, timeout=20)
        undo.callback(subprocess.run, ["umount", str(disk.dir)], check=True, timeout=60)
        yield disk


class Checker:
    """The pattern program on that disk. It counts the pages that were lost, and checks every byte of all others."""

    def __init__(self, folder: Path, disk: Disk, seconds: int) -> None:
        binary = folder / "pattern"
        subprocess.run(["cc", "-O2", "-o", str(binary), str(PATTERN)], check=True, timeout=60)
        self._stats, self._said = folder / "stats.json", folder / "said"
        words = [
            *RAMSTER,
            "run",
            "--local",
            f"{MIB // 4}M",
            "--spill",
            str(disk.dir),
            "--stats",
            str(self._stats),
            "--",
        ]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [*words, str(binary), str(MIB), str(seconds), "5", "mourns"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said,
            )  # fmt: skip

    def wait_for_word(self, word: str) -> None:
        wait_for(lambda: word in self.complaints(), f"{word!r} is said", seconds=30)

    def complaints(self) -> str:
        return self._said.read_text()

    def finish(self, seconds: float) -> dict[str, Any]:
        try:
            out, _ = self._process.communicate(timeout=seconds)
        finally:
            self.end()
        assert self._process.returncode == 0, (self._process.returncode, self.complaints()[-3000:])
        stats: dict[str, Any] = json.loads(self._stats.read_text())
        assert out.decode().splitlines()[-1] == f"verified {MIB * 256} pages, {stats['pages_lost']} lost"
        return stats

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(20)


def test_a_disk_that_fails_is_said_loses_loudly_and_alone_and_is_used_again(tmp_path: Path, disk: Disk) -> None:
    checker = Checker(tmp_path, disk, seconds=14)
    try:
        time.sleep(3)
        with disk.failing():
            checker.wait_for_word("is failed")
            time.sleep(1)
        checker.wait_for_word("takes pages again (it was failed)")
    finally:
        stats = checker.finish(90)
    assert stats["disk"] == "ok"
    # What was read then is lost, with a line each; all else is there, and right.
    lines = [line for line in checker.complaints().splitlines() if "is lost" in line]
    assert 0 < stats["pages_lost"] == len(lines) < MIB * 256 // 2, stats


def test_a_disk_that_hangs_for_a_while_says_so_and_loses_nothing(tmp_path: Path, disk: Disk) -> None:
    checker = Checker(tmp_path, disk, seconds=12)
    try:
        time.sleep(3)
        with disk.hanging():
            checker.wait_for_word("does not answer")
        checker.wait_for_word("answers again")
    finally:
        stats = checker.finish(90)
    assert (stats["disk"], stats["pages_lost"]) == ("ok", 0)
    assert stats["faults_disk"] > 0
