"""What this machine has: RAM, what is available, pressure, and the memory cgroup's limit (v1 and v2). Reads /proc and /sys only.

Not: how much of it a program may use; that is `policy.split`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# cgroup v1 says "no limit" as a number near 2**63; whatever is above this is no limit.
UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True)
class Memory:
    """All in bytes. `limit_bytes` is the tightest memory cgroup's limit, or None; `room_bytes` is what may still be taken."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None
    room_bytes: int

    @property
    def ram_bytes(self) -> int:
        """What a percentage is of: the RAM that this process could ever have."""
        return min(self.total_bytes, self.limit_bytes or self.total_bytes)


def memory(root: str = "/") -> Memory:
    """Reads it now. `root` is another file system root, for tests."""
    fields = _meminfo(Path(root, "proc/meminfo"))
    total = fields.get("MemTotal", 0)
    available = fields.get("MemAvailable", total)
    limit: int | None = None
    room = available
    for folder, names in _cgroups(Path(root)):
        found = _number(folder / names[0])
        if found is None or found >= UNLIMITED_BYTES:
            continue
        limit = found if limit is None else min(limit, found)
        used = (_number(folder / names[1]) or 0) - _reclaimable(folder / "memory.stat")
        room = min(room, max(found - max(used, 0), 0))
    return Memory(total, available, limit, room)


def pressure_percent(root: str = "/") -> float:
    """How much of the last ten seconds some task waited for memory: the machine's, or the innermost cgroup's that has it.

    0.0 where the kernel does not say.
    """
    paths = [
        Path(root, "proc/pressure/memory"),
        *(folder / "memory.pressure" for folder, _ in _cgroups(Path(root))[:1]),
    ]
    return max(_some_avg10(path) for path in paths)


def _some_avg10(path: Path) -> float:
    try:
        for line in path.read_text().splitlines():
            kind, _, rest = line.partition(" avg10=")
            if kind == "some":
                return float(rest.split()[0])
    except (OSError, ValueError, IndexError):
        pass
    return 0.0


def _meminfo(path: Path) -> dict[str, int]:
    fields = {}
    try:
        for line in path.read_text().splitlines():
            name, _, rest = line.partition(":")
            if rest.endswith(" kB"):
                fields[name] = int(rest[:-3]) * 1024
    except OSError:
        pass
    return fields


def _cgroups(root: Path) -> list[tuple[Path, tuple[str, str]]]:
    """The memory cgroups of this process from the innermost out, each with its names for limit and use."""
    try:
        lines = Path(root, "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders: list[tuple[Path, tuple[str, str]]] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            top, names = Path(root, "sys/fs/cgroup"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            top, names = Path(root, "sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        # In a container the path may be the host's while the mount shows only our part: then the mount's top is ours.
        folders += [(top.joinpath(*parts[:depth]), names) for depth in range(len(parts), -1, -1)]
    return folders


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _reclaimable(path: Path) -> int:
    """Clean file pages count as used but go first, so they are room."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    found = {name: int(value) for name, _, value in (line.partition(" ") for line in lines) if value.isdigit()}
    return found.get("total_inactive_file", found.get("inactive_file", 0))
