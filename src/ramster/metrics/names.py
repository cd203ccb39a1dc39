"""Which counters leave ramster under which name, and what each means. The native stat block has the values under these names.

Not: the counters themselves, which are native; their order in the stat block is `_native.STAT_FIELDS`.
"""

from __future__ import annotations

from collections.abc import Mapping

# What `ramster run --stats` promises to scripts; the file has the other fields of the stat block after these.
STATS_PROMISED = (
    "faults",
    "faults_local",
    "faults_remote",
    "pages_out",
    "pages_remotified",
    "bytes_resident_max",
    "bytes_stored_max",
)

# Of a client, as `ramster status` shows it: the stat block's field for each promised key.
CLIENT_FIELDS = {
    "resident_bytes": "bytes_resident",
    "stored_bytes": "bytes_stored",
    "remote_bytes": "bytes_remote",
}


def disk_word(stats: Mapping[str, int], *, has_disk: bool) -> str:
    """`ok`, `full` or `failed`: what the spill directories of a process tree are, or were when it ended; else `none`."""
    if not has_disk:
        return "none"
    return "failed" if stats.get("disk_failed") else "full" if stats.get("disk_full") else "ok"


def promised_first(stats: Mapping[str, int]) -> dict[str, int]:
    """`stats` with the promised fields first, every one present."""
    ordered = {name: int(stats.get(name, 0)) for name in STATS_PROMISED}
    ordered.update({name: int(value) for name, value in stats.items() if name not in ordered})
    return ordered
