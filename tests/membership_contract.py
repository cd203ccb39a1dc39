"""What every back end of membership must do, as scenarios over a cluster of three to five nodes.

A back end brings a cluster; the rest is here.

Not: what only one back end has (test_static.py, test_registry.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from ramster.cluster.membership import Member, Quorum, State

NODES = 5


class Cluster(Protocol):
    """Nodes 1 to NODES, of which some run. Bounds are those that docs/membership.md states for the back end."""

    death_ms: int
    # Death seen by all; all see each other after the last start, resume or heal; a node that is cut off is seen by all.
    notice_ms: int
    converge_ms: int
    cut_ms: int
    # Being suspended for this long is only being slow.
    slow_ms: int

    def start(self, node: int, *, moved: bool = False) -> None: ...
    def stop(self, node: int) -> None: ...
    def kill(self, node: int) -> None: ...
    def vanish(self, node: int) -> None: ...
    def suspend(self, node: int) -> None: ...
    def resume(self, node: int) -> None: ...
    def cut(self, node: int, way: str) -> None: ...
    def heal(self) -> None: ...
    def advance(self, ms: int) -> None: ...
    def until(self, condition: Callable[[], bool], within_ms: int) -> bool: ...
    def view(self, node: int) -> dict[int, Member]: ...
    def quorum(self, node: int) -> Quorum: ...
    def incarnation(self, node: int) -> int: ...
    def address(self, node: int) -> str: ...


def sees_up(cluster: Cluster, observer: int, node: int) -> bool:
    """As it is now: its life, its address."""
    member = cluster.view(observer).get(node)
    return (
        member is not None
        and member.state == State.UP
        and member.incarnation == cluster.incarnation(node)
        and member.address == cluster.address(node)
    )


def sees_down(cluster: Cluster, observer: int, node: int) -> bool:
    member = cluster.view(observer).get(node)
    return member is None or member.state == State.DOWN


def agree(cluster: Cluster, running: set[int], ever: set[int] | None = None) -> bool:
    """Every running node sees those that run as they are, and all others that ever ran as down."""
    gone = (ever if ever is not None else running) - running
    return all(
        all(sees_up(cluster, observer, node) for node in running - {observer})
        and all(sees_down(cluster, observer, node) for node in gone)
        for observer in running
    )


def story(cluster: Cluster, running: set[int]) -> str:
    rows = []
    for observer in sorted(running):
        seen = [f"{member.id}:{member.state} {member.reason}".strip() for member in cluster.view(observer).values()]
        rows.append(f"node {observer} ({cluster.quorum(observer).reason}): {'; '.join(seen)}")
    return "\n".join(rows)


def must(cluster: Cluster, condition: Callable[[], bool], within_ms: int, running: set[int], what: str) -> None:
    assert cluster.until(condition, within_ms), f"{what}: not within {within_ms} ms\n{story(cluster, running)}"


def all_up(cluster: Cluster, nodes: int = 3) -> set[int]:
    running = set(range(1, nodes + 1))
    for node in running:
        cluster.start(node)
    must(cluster, lambda: agree(cluster, running), cluster.converge_ms, running, "all see all up")
    return running


def nodes_come_up_in_any_order_and_all_see_all(cluster: Cluster, chance: random.Random) -> None:
    order = list(range(1, NODES + 1))
    chance.shuffle(order)
    for node in order:
        cluster.start(node)
        cluster.advance(chance.randrange(cluster.death_ms // 2))
    running = set(order)
    must(cluster, lambda: agree(cluster, running), cluster.converge_ms, running, "all see all up")
    assert all(cluster.quorum(node).held for node in running), story(cluster, running)


def a_killed_node_is_seen_down_by_all_and_comes_back_as_another_life(cluster: Cluster, chance: random.Random) -> None:
    running = all_up(cluster)
    before = cluster.incarnation(2)
    cluster.kill(2)
    must(cluster, lambda: agree(cluster, {1, 3}, running), cluster.notice_ms, {1, 3}, "the death is noticed")
    cluster.start(2)
    assert cluster.incarnation(2) > before
    must(cluster, lambda: agree(cluster, running), cluster.converge_ms, running, "the new life is seen")


def a_node_that_stops_is_seen_down_by_all(cluster: Cluster, chance: random.Random) -> None:
    running = all_up(cluster)
    cluster.stop(3)
    must(cluster, lambda: agree(cluster, {1, 2}, running), cluster.notice_ms, {1, 2}, "the stop is noticed")


def a_machine_that_vanishes_is_seen_down_by_all_in_time(cluster: Cluster, chance: random.Random) -> None:
    running = all_up(cluster)
    cluster.advance(chance.randrange(cluster.death_ms))
    cluster.vanish(1)
    must(cluster, lambda: agree(cluster, {2, 3}, running), cluster.notice_ms, {2, 3}, "the death is noticed")


def a_node_that_restarts_at_once_is_another_life_for_all(cluster: Cluster, chance: random.Random) -> None:
    running = all_up(cluster)
    cluster.kill(2)
    cluster.start(2)
    must(cluster, lambda: agree(cluster, running), cluster.converge_ms, running, "the new life is seen")


def a_node_that_comes_back_elsewhere_is_followed(cluster: Cluster, chance: random.Random) -> None:
    running = all_up(cluster)
    before = cluster.address(3)
    cluster.kill(3)
    cluster.advance(chance.randrange(cluster.death_ms * 2))
    cluster.start(3, moved=True)
    assert cluster.address(3) != before
    must(cluster, lambda: agree(cluster, running), cluster.converge_ms, running, "the new address is followed")


def a_slow_node_is_not_a_dead_node(cluster: Cluster, chance: random.Random) -> None:
    running = all_up(cluster)
    for _ in range(2):
        cluster.suspend(2)
        down = cluster.until(lambda: any(sees_down(cluster, node, 2) for node in (1, 3)), cluster.slow_ms)
        cluster.resume(2)
        assert not down, story(cluster, {1, 3})
        down = cluster.until(lambda: any(sees_down(cluster, node, 2) for node in (1, 3)), cluster.death_ms)
        assert not down, story(cluster, running)
    must(cluster, lambda: agree(cluster, running), cluster.converge_ms, running, "all see all up")


def a_suspended_node_does_no_harm(cluster: Cluster, chance: random.Random) -> None:
    running = all_up(cluster)
    cluster.suspend(2)
    must(cluster, lambda: agree(cluster, {1, 3}, running), cluster.notice_ms, {1, 3}, "the silence is noticed")
    cluster.advance(cluster.death_ms * 2)
    assert agree(cluster, {1, 3}, running), story(cluster, {1, 3})
    cluster.resume(2)
    harm = cluster.until(lambda: any(sees_down(cluster, 2, node) for node in (1, 3)), cluster.death_ms * 2)
    assert not harm, f"the node that was suspended itself declares others dead\n{story(cluster, running)}"
    must(cluster, lambda: agree(cluster, running), cluster.converge_ms, running, "all see all up")


def cut_off(cluster: Cluster, way: str) -> None:
    running = all_up(cluster, NODES)
    others = running - {3}
    assert all(cluster.quorum(node).held for node in running)
    cluster.cut(3, way)
    must(
        cluster,
        lambda: agree(cluster, others, running) and not cluster.quorum(3).held,
        cluster.cut_ms,
        running,
        f"node 3 is cut off ({way}): seen down, and without quorum",
    )
    assert all(cluster.quorum(node).held for node in others), story(cluster, running)
    cluster.advance(cluster.death_ms)
    cluster.heal()
    must(
        cluster,
        lambda: agree(cluster, running) and all(cluster.quorum(node).held for node in running),
        cluster.converge_ms,
        running,
        "all see all up again, and have quorum",
    )


def a_node_cut_off_both_ways_loses_quorum_and_comes_back(cluster: Cluster, chance: random.Random) -> None:
    cut_off(cluster, "both")


def a_node_that_cannot_be_heard_loses_quorum_and_comes_back(cluster: Cluster, chance: random.Random) -> None:
    cut_off(cluster, "out")


def a_node_that_cannot_hear_loses_quorum_and_comes_back(cluster: Cluster, chance: random.Random) -> None:
    cut_off(cluster, "in")


def a_random_history_ends_with_one_view(
    cluster: Cluster, chance: random.Random, *, steps: int = 12, check: Callable[[], None] | None = None
) -> None:
    """Nodes go up, down, away, elsewhere, are suspended and cut off, some at a time; then everything heals."""
    running: set[int] = set()
    suspended: set[int] = set()
    ever: set[int] = set()
    done: list[str] = []
    for _ in range(steps):
        node = chance.randrange(1, NODES + 1)
        # Node 1 stays where all know it: who finds nobody where he looks cannot be found either.
        words = ["start", "move"] if node > 1 else ["start"]
        if node in running:
            words = ["kill", "vanish", "stop", "cut", "heal", "suspend", "restart"]
        if node in suspended:
            words = ["resume", "kill"]
        word = chance.choice(words)
        done.append(f"{word} {node}")
        if word in ("start", "move"):
            cluster.start(node, moved=word == "move")
            running.add(node)
            ever.add(node)
        elif word in ("kill", "vanish", "stop"):
            getattr(cluster, word)(node)
            running.discard(node)
            suspended.discard(node)
        elif word == "restart":
            cluster.kill(node)
            cluster.start(node)
        elif word == "cut":
            cluster.cut(node, chance.choice(["out", "in", "both"]))
        elif word == "heal":
            cluster.heal()
        else:
            getattr(cluster, word)(node)
            (suspended.add if word == "suspend" else suspended.discard)(node)
        # Often much less than anything takes, at times enough for all of it.
        cluster.advance(chance.choice([1, 50, cluster.death_ms // 5, cluster.death_ms, cluster.death_ms * 2]))
        if check is not None:
            check()
    if 1 not in running:
        cluster.start(1)
        running.add(1)
        ever.add(1)
    cluster.heal()
    for node in suspended:
        cluster.resume(node)
    # Views may agree by chance while messages are still on their way.
    cluster.advance(cluster.notice_ms)
    left_ms = cluster.converge_ms - cluster.notice_ms
    must(cluster, lambda: agree(cluster, running, ever), left_ms, running, f"one view after {done}")
    stays = cluster.until(lambda: not agree(cluster, running, ever), cluster.death_ms * 2)
    assert not stays, f"the view does not stay after {done}\n{story(cluster, running)}"


SCENARIOS: list[Callable[[Cluster, random.Random], None]] = [
    nodes_come_up_in_any_order_and_all_see_all,
    a_killed_node_is_seen_down_by_all_and_comes_back_as_another_life,
    a_node_that_stops_is_seen_down_by_all,
    a_machine_that_vanishes_is_seen_down_by_all_in_time,
    a_node_that_restarts_at_once_is_another_life_for_all,
    a_node_that_comes_back_elsewhere_is_followed,
    a_slow_node_is_not_a_dead_node,
    a_suspended_node_does_no_harm,
    a_node_cut_off_both_ways_loses_quorum_and_comes_back,
    a_node_that_cannot_be_heard_loses_quorum_and_comes_back,
    a_node_that_cannot_hear_loses_quorum_and_comes_back,
]
