"""Names the machine and its settings that move the numbers: CPU, kernel, halt polling, huge pages, read-ahead, load.

Not: anything that changes a setting.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SETTINGS = {
    "guest_halt_poll_ns": "/sys/module/haltpoll/parameters/guest_halt_poll_ns",
    "cpuidle_governor": "/sys/devices/system/cpu/cpuidle/current_governor",
    "transparent_hugepages": "/sys/kernel/mm/transparent_hugepage/enabled",
    "swap_readahead_log2_pages": "/proc/sys/vm/page-cluster",
}


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _cpu_model() -> str:
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _ram_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )
    return done.stdout.strip() or None


def describe() -> dict[str, object]:
    """What a result must name to be worth keeping. A setting that this kernel does not have is None."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "ram_gib": round(_ram_bytes() / (1 << 30), 1),
        "kernel": platform.release(),
        "load_1min": round(os.getloadavg()[0], 2),
        "commit": _commit(),
        "settings": {name: _text(path) for name, path in SETTINGS.items()},
    }
