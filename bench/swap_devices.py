"""The kernel's own swap as the peer: on zram with lz4, on a memory disk behind TCP (nbdkit, nbdfuse, loop), on a file.

Each device is made for one run and taken away after it. Swap that the machine has is never touched.
Not: the memory limit.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DEVICE_BYTES = 4 << 30
# A file takes its room on a disk that others need too, and no run pages out more.
FILE_BYTES = 1 << 30
# Above whatever swap the machine has, so that the kernel takes ours first.
PRIORITY = 1000
ZRAM_CONTROL = Path("/sys/class/zram-control")

# What the device's own store holds, sampled while it is in use.
Look = Callable[[], dict[str, int]]


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


def _retry(seconds: float, action: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            action()
            return
        except (OSError, RuntimeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _swap_on(device: str, undo: ExitStack) -> None:
    _run("mkswap", device)
    _run("swapon", "--priority", str(PRIORITY), device)
    undo.callback(_retry, 60, lambda: _run("swapoff", device))


def zram_missing() -> str | None:
    if not (ZRAM_CONTROL / "hot_add").exists():
        return "zram (a kernel with CONFIG_ZRAM; modprobe zram)"
    return None


@contextmanager
def zram() -> Iterator[Look]:
    """Swap on a zram device of our own with lz4. Looks: its mm_stat."""
    index = int((ZRAM_CONTROL / "hot_add").read_text())
    system = Path(f"/sys/block/zram{index}")
    with ExitStack() as undo:
        undo.callback(_retry, 20, lambda: (ZRAM_CONTROL / "hot_remove").write_text(str(index)))
        undo.callback(_retry, 20, lambda: (system / "reset").write_text("1"))
        (system / "comp_algorithm").write_text("lz4")
        (system / "disksize").write_text(str(DEVICE_BYTES))
        _retry(5, lambda: os.stat(f"/dev/zram{index}"))
        _swap_on(f"/dev/zram{index}", undo)

        def look() -> dict[str, int]:
            stat = [int(word) for word in (system / "mm_stat").read_text().split()]
            return {
                "pages_stored": stat[0] // 4096,
                "bytes_compressed": stat[1],
                "bytes_stored": stat[2],
                "bytes_stored_max": stat[4],
                "pages_same": stat[5],
                "pages_raw": stat[7],
            }

        yield look


def nbd_missing() -> str | None:
    wanted = {"nbdkit": "nbdkit", "nbdfuse": "libnbd-bin", "fusermount3": "fuse3", "losetup": "mount"}
    absent = {name: package for name, package in wanted.items() if not shutil.which(name)}
    if absent:
        return f"{', '.join(absent)} (apt install {' '.join(absent.values())})"
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        return "/dev/fuse and /dev/loop-control (a kernel with FUSE and loop devices)"
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)


def _start(undo: ExitStack, *argv: str) -> None:
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    undo.callback(_end, process)


def _connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), 1).close()


@contextmanager
def nbd(scratch: Path) -> Iterator[Look]:
    """Swap on a loop device on nbdfuse's file of an nbdkit memory disk over loopback TCP. It has nothing to look at."""
    port = free_port()
    with ExitStack() as undo:
        _start(undo, "nbdkit", "--foreground", "-i", "127.0.0.1", "-p", str(port), "memory", str(DEVICE_BYTES))
        _retry(10, lambda: _connect(port))
        disk = scratch / f"nbd-{port}"
        disk.touch()
        undo.callback(disk.unlink)
        _start(undo, "nbdfuse", str(disk), f"nbd://127.0.0.1:{port}")
        undo.callback(_retry, 20, lambda: _run("fusermount3", "-u", str(disk)))
        _retry(10, lambda: _has_size(disk))
        device = _run("losetup", "--find", "--show", str(disk))
        undo.callback(_retry, 20, lambda: _run("losetup", "--detach", device))
        _swap_on(device, undo)
        yield dict


def _has_size(disk: Path) -> None:
    if disk.stat().st_size != DEVICE_BYTES:
        raise RuntimeError(f"{disk}: nbdfuse did not mount within its time")


def file_missing() -> str | None:
    wanted = [name for name in ("mkswap", "swapon", "swapoff") if not shutil.which(name)]
    return f"{', '.join(wanted)} (apt install mount util-linux)" if wanted else None


@contextmanager
def file(scratch: Path) -> Iterator[Look]:
    """Swap on a file in `scratch`, so on the disk where a spill file would be. It has nothing to look at."""
    path = scratch / f"swap-{os.getpid()}-{time.monotonic_ns()}"
    with ExitStack() as undo:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        undo.callback(path.unlink)
        try:
            os.posix_fallocate(descriptor, 0, FILE_BYTES)
        finally:
            os.close(descriptor)
        _swap_on(str(path), undo)
        yield dict
