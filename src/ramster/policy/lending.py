"""What a node offers from what its machine does not need. Down at once, up slowly; below what it holds only while the machine
is short of memory, which recalls the difference.

Not: how the figures are read (`config.machine`), or how pages leave, which is the owners'.
"""

from __future__ import annotations

from dataclasses import dataclass

# Below this share of its RAM the kernel reclaims on its own; what would be lent beyond it is not spare.
RESERVE_PERCENT = 5
# Times what the machine is short of that is recalled, each round: pages must leave faster than its own programs grow, and owners
# take a round or two to come for them. Three times would empty a node for every small dip.
RECALL_FACTOR = 2
# Percent of the last ten seconds in which some task waited for memory. Idle machines have 0.0, one that writes back files
# for a moment 1 to 2; at 5 every twentieth moment of its own programs is lost, which is no machine that lends.
PRESSURE_PERCENT = 5.0
# As long as the kernel's average takes to forget: grown sooner, the offer would follow every sample.
CALM_MS = 10_000
# From nothing to all in this time. Pages that come in take the machine's memory after the offer, not with it; faster, the
# offer would have grown past what is there before that shows.
GROW_MS = 60_000
# Changes smaller than this part of the limit are not worth a message to every client.
STEP_FRACTION = 64


@dataclass(frozen=True)
class LendingSnapshot:
    """What the machine has, in bytes, and how many of them are foreign pages already. `pressure_percent`: PSI, some, avg10.

    `room_bytes` is what this process may still take: the least of what is available and what its memory cgroups leave.
    """

    total_bytes: int
    room_bytes: int
    used_bytes: int
    pressure_percent: float
    # What an operator wants kept; None: RESERVE_PERCENT.
    reserve_bytes: int | None = None


@dataclass(frozen=True)
class Lending:
    """The offer in bytes, since when nothing has spoken against more, and why it is what it is."""

    offer_bytes: int
    calm_since_ms: int
    decided_ms: int
    reason: str


def begin(limit_bytes: int, now_ms: int) -> Lending:
    """At the start all that the file names is offered; the first look corrects it."""
    return Lending(limit_bytes, now_ms - CALM_MS, now_ms, "as the file says")


def decide(before: Lending, seen: LendingSnapshot, *, limit_bytes: int, now_ms: int) -> Lending:
    """The next offer. Never more than `limit_bytes`; less than what is held where the limit is, or the machine is short."""
    reserve_bytes = seen.reserve_bytes
    if reserve_bytes is None:
        reserve_bytes = seen.total_bytes * RESERVE_PERCENT // 100
    spare_bytes = seen.room_bytes - reserve_bytes
    short_bytes = max(-spare_bytes, 0)
    floor_bytes = min(max(seen.used_bytes - RECALL_FACTOR * short_bytes, 0), limit_bytes)
    target_bytes = max(min(seen.used_bytes + max(spare_bytes, 0), limit_bytes), floor_bytes)
    step_bytes = limit_bytes // STEP_FRACTION
    squeezed = _squeezed(seen, short_bytes)
    if squeezed is not None:
        return Lending(min(before.offer_bytes, floor_bytes), now_ms, now_ms, squeezed)
    if target_bytes < before.offer_bytes:
        if before.offer_bytes - target_bytes <= step_bytes and target_bytes > floor_bytes:
            return Lending(before.offer_bytes, before.calm_since_ms, now_ms, before.reason)
        reason = f"{max(spare_bytes, 0) >> 20} MiB are spare beyond a reserve of {reserve_bytes >> 20} MiB"
        return Lending(target_bytes, now_ms, now_ms, reason)
    calm = now_ms - before.calm_since_ms >= CALM_MS
    grown_bytes = limit_bytes * max(now_ms - before.decided_ms, 0) // GROW_MS
    if target_bytes == before.offer_bytes or not calm:
        return Lending(before.offer_bytes, before.calm_since_ms, now_ms, before.reason)
    offer_bytes = min(before.offer_bytes + grown_bytes, target_bytes)
    if offer_bytes - before.offer_bytes < step_bytes and offer_bytes < target_bytes:
        # Time goes on being counted until a step is worth telling.
        return Lending(before.offer_bytes, before.calm_since_ms, before.decided_ms, before.reason)
    full = offer_bytes == limit_bytes
    return Lending(
        offer_bytes,
        before.calm_since_ms,
        now_ms,
        "the machine has room" if full else "the machine has room again: growing",
    )


def _squeezed(seen: LendingSnapshot, short_bytes: int) -> str | None:
    """Why nothing more is lent, if so."""
    if short_bytes > 0 and seen.used_bytes > 0:
        return f"the machine is {short_bytes >> 20} MiB short of its reserve: recalls what it lends"
    if seen.pressure_percent >= PRESSURE_PERCENT:
        return (
            f"programs of this machine wait for memory {seen.pressure_percent:.0f} % of the time: nothing more is lent"
        )
    return None
