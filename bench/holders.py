"""Nodes that the harness starts as holders: plain ones on loopback, or with the certificates of a cluster made for the run.

Not: what is measured on them.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import swap_devices
from bench.machine import ROOT

OFFER = "6G"
FIRST_NODE = 9
# Of the one program that runs beside a certified holder.
FAMILY = "0123456789abcdef"


@dataclass(frozen=True)
class Holder:
    """A node that runs. `credentials` is what a client of its own node opens links with; None: plain links."""

    node: int
    address: str
    pid: int
    credentials: dict[str, object] | None


def ramster_command() -> Path:
    return ROOT / ".venv/bin/ramster"


def missing() -> str | None:
    return None if ramster_command().exists() else f"{ramster_command()}, to start the holder (make build)"


@contextmanager
def plain(scratch: Path, cpus: frozenset[int] | None, node: int = FIRST_NODE) -> Iterator[Holder]:
    """A second node on this machine, on these cores."""
    address = f"127.0.0.1:{swap_devices.free_port()}"
    admin, config = scratch / f"holder-{node}.sock", scratch / f"holder-{node}.toml"
    config.write_text(f'[node]\nid = {node}\nlisten = "{address}"\noffer = "{OFFER}"\nsocket = "{admin}"\n')
    with _running(config, admin, cpus) as pid:
        yield Holder(node, address, pid, None)


@contextmanager
def certified(scratch: Path, cpus: frozenset[int] | None) -> Iterator[Holder]:
    """The first node of a cluster of its own: it speaks TLS alone."""
    from ramster.security import authority, credentials, files

    address, control = (f"127.0.0.1:{swap_devices.free_port()}" for _ in range(2))
    directory, admin = scratch / f"cluster-{address.rpartition(':')[2]}", scratch / "certified.sock"
    told = [
        "--dir",
        str(directory),
        "--listen",
        address,
        "--control",
        control,
        "--offer",
        OFFER,
        "--socket",
        str(admin),
    ]
    made = subprocess.run(
        [str(ramster_command()), "init", *told], capture_output=True, text=True, timeout=60, check=False
    )
    if made.returncode != 0:
        raise RuntimeError(f"no cluster: {made.stderr.strip()}")
    with _running(directory / "node.toml", admin, cpus) as pid:
        own = credentials.load(files.Directory(str(directory)))
        plain, _ = own.for_client(FAMILY, authority.utc_now())
        yield Holder(own.node, address, pid, plain)


@contextmanager
def _running(config: Path, admin: Path, cpus: frozenset[int] | None) -> Iterator[int]:
    log = config.with_suffix(".log")
    pin: Callable[[], None] | None = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [str(ramster_command()), "node", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            preexec_fn=pin,  # no other thread lives here when a holder is started
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 20
        while not admin.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the holder did not start: {log.read_text().strip()[-300:]}")
            time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def cpu_s(pid: int) -> float:
    """What the process has spent so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
