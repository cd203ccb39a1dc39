"""How one local limit is made and divided: what `auto` is, and how much of it stays as ordinary resident pages."""

from __future__ import annotations

from dataclasses import dataclass

# A program has memory that is not managed (code, stacks, small heaps, page tables, our own tables of 2 % or so), and
# the machine needs slack to write back files. Ten percent is the least at which the machines that we tried never met
# their out-of-memory killer.
AUTO_PERCENT = 90
# With less, the frames in flight between fault and store are a large part of the limit, and a program crawls.
LEAST_BYTES = 16 << 20


@dataclass(frozen=True)
class Split:
    """The bytes for managed memory of one program, and why. `resident_bytes` None: the pager divides by what it sees."""

    local_bytes: int
    resident_bytes: int | None
    reason: str


def auto(room_bytes: int) -> Split:
    """The limit when nobody names one: most of what the machine, or the program's cgroup, still has."""
    local = max(room_bytes * AUTO_PERCENT // 100 // 4096 * 4096, LEAST_BYTES)
    return Split(
        local, None, f"auto: {AUTO_PERCENT} % of the {room_bytes >> 20} MiB that are available to this process"
    )


def fixed(local_bytes: int, resident_bytes: int | None = None) -> Split:
    """The limit that somebody named. `resident_bytes` never exceeds it: the rest is for compressed pages."""
    if resident_bytes is None:
        return Split(local_bytes, None, "the local limit as given")
    return Split(local_bytes, min(resident_bytes, local_bytes), "the local limit and its resident part as given")
