"""What a node offers: by single looks, and along a trace recorded in a memory cgroup whose program took and gave back memory."""

import json
from pathlib import Path

import pytest

from ramster.policy.lending import CALM_MS, GROW_MS, Lending, LendingSnapshot, begin, decide

GIB = 1 << 30
MIB = 1 << 20
LIMIT = 4 * GIB
TRACE = Path(__file__).parent / "traces" / "cgroup-300-mib.json"


def look(room: int, *, used: int = 0, pressure: float = 0.0) -> LendingSnapshot:
    return LendingSnapshot(16 * GIB, room, used, pressure)


def after(before: Lending, seen: LendingSnapshot, ms: int) -> Lending:
    return decide(before, seen, limit_bytes=LIMIT, now_ms=before.decided_ms + ms)


def test_a_machine_with_room_offers_all_that_its_file_names() -> None:
    found = after(begin(LIMIT, 0), look(10 * GIB), 1000)
    assert found.offer_bytes == LIMIT


def test_what_is_not_spare_is_not_offered_from_the_first_look_on() -> None:
    found = after(begin(LIMIT, 0), look(2 * GIB), 0)
    assert found.offer_bytes == 2 * GIB - 16 * GIB * 5 // 100
    assert "spare beyond a reserve of 819 MiB" in found.reason


def test_foreign_pages_that_are_here_already_are_not_counted_against_the_offer() -> None:
    found = after(begin(LIMIT, 0), look(2 * GIB, used=3 * GIB), 1000)
    assert found.offer_bytes == LIMIT


def test_under_pressure_nothing_more_is_lent_and_what_is_held_stays() -> None:
    found = after(begin(LIMIT, 0), look(10 * GIB, used=GIB, pressure=12.0), 1000)
    assert found.offer_bytes == GIB
    assert "wait for memory 12 % of the time" in found.reason
    found = after(found, look(10 * GIB, used=GIB // 2, pressure=12.0), 1000)
    assert found.offer_bytes == GIB // 2, "it follows what is held down"


def test_the_offer_shrinks_at_once_and_grows_only_after_calm_and_slowly() -> None:
    found = after(begin(LIMIT, 0), look(0), 1000)
    assert found.offer_bytes == 0
    now_ms, grown = found.decided_ms, []
    for _ in range(100):
        now_ms += 1000
        before = found.offer_bytes
        found = decide(found, look(10 * GIB), limit_bytes=LIMIT, now_ms=now_ms)
        grown.append(found.offer_bytes - before)
    assert not any(grown[: CALM_MS // 1000 - 1]), "calm first"
    assert max(grown) <= LIMIT * CALM_MS // GROW_MS
    assert found.offer_bytes == LIMIT


def test_small_changes_are_not_told() -> None:
    found = after(begin(LIMIT, 0), look(2 * GIB), 1000)
    for change in (-20, 10, -15, 0):
        assert after(found, look(2 * GIB + change * MIB), 1000).offer_bytes == found.offer_bytes


def test_more_is_held_than_the_limit_says_since_it_was_lowered() -> None:
    assert after(begin(LIMIT, 0), look(2 * GIB, used=5 * GIB), 1000).offer_bytes == LIMIT


def test_a_machine_that_is_short_recalls_twice_what_it_lacks_and_lends_again_when_it_is_over() -> None:
    reserve = 16 * GIB * 5 // 100
    found = after(begin(LIMIT, 0), look(reserve - 100 * MIB, used=GIB), 1000)
    assert found.offer_bytes == GIB - 200 * MIB
    assert "100 MiB short of its reserve: recalls" in found.reason
    found = after(found, look(0, used=GIB), 1000)
    assert found.offer_bytes == 0, "no more than all"
    found = after(found, look(reserve, used=0), 1000)
    assert found.offer_bytes == 0
    for _ in range(90):
        found = after(found, look(10 * GIB), 1000)
    assert found.offer_bytes == LIMIT


@pytest.mark.parametrize("limit", [0, 1, 4096])
def test_tiny_limits_are_offered_or_not(limit: int) -> None:
    found = begin(limit, 0)
    for now_ms in range(1000, 100_000, 1000):
        found = decide(found, look(10 * GIB), limit_bytes=limit, now_ms=now_ms)
        assert found.offer_bytes == limit


def test_along_a_recorded_trace_the_offer_leaves_the_reserve_and_does_not_flap() -> None:
    """One program takes 240 of 300 MiB in 10 s, keeps them for 10 s, and gives them back."""
    trace = json.loads(TRACE.read_text())
    limit = 200 * MIB
    found = begin(limit, trace[0][0])
    offers = []
    for at_ms, total, room, pressure in trace:
        found = decide(found, LendingSnapshot(total, room, 0, pressure), limit_bytes=limit, now_ms=at_ms)
        offers.append(found.offer_bytes)
        slack = limit // 64
        assert found.offer_bytes <= max(room - total * 5 // 100, 0) + slack
    taken = next(index for index, row in enumerate(trace) if row[0] > 20_000)
    assert offers[0] > 100 * MIB
    assert offers[taken] < 30 * MIB, "40 MiB are left, 15 of them the reserve"
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(offers, offers[1:], offers[2:], strict=False))
    assert turns <= 2, "down, and up again"
    assert offers[-1] > offers[taken]
