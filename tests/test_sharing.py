"""Programs of one machine that want all the memory that peers lend: each simulated one obeys the last limit that it was told."""

from __future__ import annotations

import random

import pytest

from ramster.policy import sharing

GIB = 1 << 30
MIB = 1 << 20


def simulate(total_bytes: int, starts: dict[int, int], *, rounds: int, seed: int) -> dict[int, int]:
    """What each program holds in the end. `starts`: when each begins to want as much as it can get, 30 to 60 MiB a round."""
    random_ = random.Random(seed)
    held = dict.fromkeys(starts, 0)
    told = sharing.LEAST_BYTES
    for at in range(rounds):
        free = total_bytes - sum(held.values())
        if sharing.is_news(told, limit := sharing.limit_bytes(free)):
            told = limit
        for name in random_.sample(sorted(starts), len(starts)):
            if at >= starts[name] and held[name] < told:
                held[name] += min(random_.randrange(30, 60) * MIB, total_bytes - sum(held.values()))
    assert sum(held.values()) <= total_bytes
    return held


@pytest.mark.parametrize("seed", range(20))
def test_a_lone_program_gets_nearly_all_and_equal_ones_get_the_same(seed: int) -> None:
    assert simulate(16 * GIB, {1: 0}, rounds=1000, seed=seed)[1] > 16 * GIB * 9 // 10
    four = simulate(16 * GIB, dict.fromkeys(range(4), 0), rounds=1000, seed=seed)
    assert min(four.values()) > max(four.values()) * 3 // 4
    assert sum(four.values()) > 16 * GIB * 19 // 20


@pytest.mark.parametrize("seed", range(20))
def test_who_comes_late_to_a_greedy_one_still_finds_some(seed: int) -> None:
    held = simulate(16 * GIB, {1: 0, 2: 700}, rounds=1500, seed=seed)
    assert held[2] > 16 * GIB // 32


def test_without_a_share_the_late_one_would_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "limit_bytes", lambda _: 1 << 62)
    assert simulate(16 * GIB, {1: 0, 2: 700}, rounds=1500, seed=1)[2] == 0


def test_free_memory_is_that_of_other_nodes_that_are_up() -> None:
    def node(id_: int, state: str, offered: int, foreign: int) -> dict[str, object]:
        return {"id": id_, "state": state, "offered_bytes": offered, "foreign_bytes": foreign}

    nodes = [node(1, "up", 900, 0), node(2, "up", 100, 30), node(3, "down", 500, 0), node(4, "up", 10, 40)]
    assert sharing.free_bytes(nodes, own=1) == 70
    assert sharing.free_bytes([], own=1) == 0


def test_small_changes_are_not_told() -> None:
    assert not sharing.is_news(800, 850)
    assert sharing.is_news(800, 950)
    assert sharing.is_news(800, 600)
