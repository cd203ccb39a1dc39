"""CPU time and waiting time of every thread of a process, by thread name, from the kernel's own scheduler statistics.

That is how the microseconds of a fault are told apart without slowing it: nothing is traced.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

# /proc/PID/task/TID/schedstat: nanoseconds on a core, nanoseconds ready but waiting for one, times put on a core.
FIELDS = ("cpu_us", "waited_us", "switches")


def by_thread(pid: int) -> Counter[tuple[str, str]]:
    """Totals so far, keyed by thread name and field; threads of one name are added up."""
    found: Counter[tuple[str, str]] = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            numbers = [int(word) for word in (task / "schedstat").read_text().split()]
        except OSError:
            continue  # it ended meanwhile
        for field, value in zip(FIELDS, numbers, strict=True):
            found[name, field] += value if field == "switches" else value // 1000
    return found
