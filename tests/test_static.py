"""The static membership: what only it has, event by event, and on simulated nodes where there must be several."""

import random
import re
from pathlib import Path

import pytest

from ramster.cluster.membership import TABLE, Announcement, Event, State, Timing
from ramster.cluster.static import NODES_MAX, Ask, Static
from ramster.cluster.view import View
from ramster.errors import ConfigError
from simulated_nodes import SimulatedCluster

OWN = Announcement(1, "10.0.0.1:1", 5)
DEATH_MS = Timing().death_ms
DOCUMENT = Path(__file__).parent.parent / "docs" / "membership.md"


def static(*peers: int, own: Announcement = OWN) -> Static:
    listed = [(peer, f"10.0.0.{peer}:1") for peer in peers or (2, 3)]
    return Static(own, listed, timing=Timing(), now_ms=0, path="n.toml")


def say(node: int, incarnation: int = 7, at: int | None = None) -> Announcement:
    return Announcement(node, f"10.0.0.{at or node}:1", incarnation, 100, 60)


def ask(found: Static, node: int, now_ms: int) -> Ask:
    """Asks everybody; this is the question to `node`."""
    return next(it for it in found.due(now_ms) if it.id == node)


def hear(found: Static, node: int, now_ms: int, incarnation: int = 7) -> None:
    found.answered(ask(found, node, now_ms), say(node, incarnation), now_ms + 5)


def state(found: Static, node: int) -> State:
    return found.view.records[node].state


def test_the_table_of_states_is_the_documents() -> None:
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {(before, event): after for before, event, after in rows if before in list(State)}
    assert documented == {(str(before), str(event)): str(after) for (before, event), after in TABLE.items()}


def test_a_forbidden_event_tells_the_members_story() -> None:
    view = View(1, Timing())
    view.add(2, "10.0.0.2:1", 0)
    view.heard(say(2), 1, 1)
    with pytest.raises(AssertionError, match=r"node 2: held in state up is forbidden.*answered"):
        view.event(2, Event.HELD, "", 2)


@pytest.mark.parametrize("peers", [[(1, "127.0.0.1:2")], [(2, "127.0.0.1:2"), (2, "127.0.0.1:3")]])
def test_two_nodes_with_one_id_in_the_file_are_refused(peers: list[tuple[int, str]]) -> None:
    with pytest.raises(ConfigError, match="id of its own"):
        Static(OWN, peers, timing=Timing(), now_ms=0, path="n.toml")


def test_more_nodes_than_static_is_for_are_refused_with_the_cure() -> None:
    static(*range(2, NODES_MAX + 1))
    with pytest.raises(ConfigError, match=r'33 nodes are listed, 32 is the most; use membership = "etcd"'):
        static(*range(2, NODES_MAX + 2))


def test_one_missed_heartbeat_is_suspicion_and_an_answer_ends_it() -> None:
    found = static()
    hear(found, 2, 0)
    found.missed(ask(found, 2, 1000), "no answer in time", 3000)
    assert state(found, 2) == State.SUSPECT
    hear(found, 2, 3001)
    assert state(found, 2) == State.UP
    assert [change.matters for change in found.changes()] == [True]


def test_a_refused_connection_is_a_death_at_once() -> None:
    found = static()
    hear(found, 2, 0)
    found.refused(ask(found, 2, 1000), "Connection refused", 1001)
    assert state(found, 2) == State.DOWN
    assert found.members()[0].reason == "Connection refused"


def test_silence_is_counted_from_the_question_that_was_answered_last() -> None:
    found = static()
    question = ask(found, 2, 0)
    found.answered(question, say(2), 1900)
    for now_ms in range(2000, DEATH_MS, 1000):
        found.tick(now_ms)
    assert state(found, 2) == State.UP
    found.tick(DEATH_MS)
    assert state(found, 2) == State.DOWN


def test_a_restart_that_nobody_missed_is_told_as_another_life() -> None:
    found = static()
    hear(found, 2, 0, incarnation=7)
    found.changes()
    hear(found, 2, 1000, incarnation=8)
    (change,) = found.changes()
    assert (change.id, change.before, change.after, change.reborn) == (2, State.UP, State.UP, True)
    assert change.matters


def test_a_clock_that_was_set_back_between_two_lives_costs_one_period() -> None:
    found = static()
    hear(found, 2, 0, incarnation=9)
    found.refused(ask(found, 2, 1000), "Connection refused", 1001)
    hear(found, 2, 2000, incarnation=4)
    assert state(found, 2) == State.DOWN, "it might be an old message"
    found.tick(4000)
    hear(found, 2, 6001, incarnation=4)
    assert state(found, 2) == State.UP
    assert found.view.records[2].incarnation == 4


def test_what_was_asked_before_this_node_was_suspended_means_nothing() -> None:
    found = static()
    hear(found, 2, 0)
    old = ask(found, 2, 1000)
    found.tick(61_000)
    assert state(found, 2) == State.UP
    found.refused(old, "Connection refused", 61_001)
    assert state(found, 2) == State.UP
    assert {it.id for it in found.due(61_002)} == {2, 3}


def test_a_peer_that_flaps_must_answer_steadily_before_it_is_used_again() -> None:
    found = static()
    now_ms, waits = 0, []
    for _ in range(7):
        hear(found, 2, now_ms)
        began_ms = now_ms
        while state(found, 2) != State.UP:
            now_ms += 1000
            hear(found, 2, now_ms)
        waits.append(now_ms - began_ms)
        now_ms += 1000
        found.refused(ask(found, 2, now_ms), "Connection refused", now_ms)
        now_ms += 1000
    assert waits == [0, 0, 2000, 4000, 8000, 10000, 10000]
    assert "Connection refused" in found.members()[0].reason
    hear(found, 2, now_ms)
    assert "used after 10000 ms of answers" in found.members()[0].reason


def test_a_peer_that_stays_up_is_forgiven_its_deaths() -> None:
    found = static()
    hear(found, 2, 0)
    for now_ms in (1000, 3000):
        found.refused(ask(found, 2, now_ms), "Connection refused", now_ms)
        hear(found, 2, now_ms + 1000)
    found.tick(6000)
    assert state(found, 2) == State.DOWN
    for now_ms in range(7000, 70_000, 1000):
        hear(found, 2, now_ms)
    assert found.view.records[2].deaths == 1


def test_a_peer_that_answers_as_somebody_else_is_not_used_and_the_file_is_named() -> None:
    found = static()
    found.answered(ask(found, 3, 999), say(2), 1004)
    assert state(found, 3) == State.DOWN
    assert found.members()[1].reason == "10.0.0.3:1 answers as node 2; correct the id or the address in n.toml"


def test_whereabouts_are_asked_and_only_the_answer_counts() -> None:
    found = static()
    found.refused(ask(found, 2, 0), "Connection refused", 1)
    assert found.looking_for() == [2]
    found.told(say(2, at=9), 500)
    assert state(found, 2) == State.DOWN
    asked = {it.address: it for it in found.due(501) if it.id == 2}
    assert set(asked) == {"10.0.0.2:1", "10.0.0.9:1"}
    found.answered(asked["10.0.0.9:1"], say(2, at=9), 510)
    found.refused(asked["10.0.0.2:1"], "Connection refused", 511)
    assert (state(found, 2), found.members()[0].address) == (State.UP, "10.0.0.9:1")
    assert found.whereabouts([2, 3]) == [Announcement(2, "10.0.0.9:1", 7)]


@pytest.mark.parametrize(
    ("own", "peers", "down", "held"),
    [
        (1, [], 0, True),
        (1, [2], 1, True),  # of two, the lower id goes on
        (2, [1], 1, False),
        (2, [1], 0, True),
        (3, [1, 2], 2, False),
        (3, [1, 2], 1, True),
        (1, [2, 3, 4], 2, True),  # half of four is not less than half
        (1, [2, 3, 4], 3, False),
        (1, [2, 3, 4, 5], 3, False),
    ],
)
def test_quorum_is_half_of_all_that_the_file_lists_and_of_two_the_lower(
    own: int, peers: list[int], down: int, held: bool
) -> None:
    listed = [(peer, f"10.0.0.{peer}:1") for peer in peers]
    found = Static(Announcement(own, "x:1", 1), listed, timing=Timing(), now_ms=0, path="n.toml")
    assert found.quorum().held, "who was not asked yet counts as heard"
    for index, question in enumerate(found.due(999)):
        if index < down:
            found.refused(question, "Connection refused", 1000)
    assert found.quorum().held is held
    assert found.quorum().size == len(peers) + 1


def test_two_nodes_that_claim_one_id_are_neither_used_and_both_are_told() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    cluster = SimulatedCluster(3, seed)
    for node in (1, 2, 3):
        cluster.start(node)
    cluster.advance(2000)
    cluster.namesake(9, of=3)
    cluster.advance(10_000)
    for observer in (1, 2):
        member = cluster.view(observer)[3]
        assert member.state == State.DOWN
        assert "two nodes claim id 3" in member.reason
        assert "10.0.0.3" in member.reason
        assert "10.0.0.9" in member.reason
    cluster.kill(9)
    cluster.advance(40_000)
    assert cluster.view(1)[3].state == State.UP
    assert cluster.view(1)[3].address == "10.0.0.3:7946"


def test_a_node_whose_id_is_claimed_by_another_has_no_quorum_until_that_is_over() -> None:
    found = static()
    found.announced(Announcement(1, "10.0.0.9:1", 8), 100)
    assert not found.quorum().held
    assert "10.0.0.9:1 claims this node's id 1" in found.quorum().reason
    for now_ms in range(1000, 7000, 1000):
        hear(found, 2, now_ms)
    assert found.quorum().held


def test_a_question_whose_outcome_is_never_told_does_not_stop_the_next_one() -> None:
    found = static()
    assert len(found.due(999)) == 2
    assert found.due(1999) == []
    assert len(found.due(999 + DEATH_MS)) == 2


def test_a_node_that_is_introduced_is_asked_at_once_and_counts_from_then_on() -> None:
    found = static(2)
    hear(found, 2, 0)
    assert found.learn(7, "10.0.0.7:1", 100)
    (asked,) = found.due(100)
    assert asked.address == "10.0.0.7:1"
    assert (found.quorum().heard, found.quorum().size) == (3, 3)
    found.answered(asked, say(7), 105)
    assert state(found, 7) == State.UP
    assert found.learn(7, "10.0.0.7:1", 1200), "introduced twice is introduced once"
    assert len(found.members()) == 2
    assert state(found, 7) == State.UP
    found.refused(ask(found, 7, 2200), "Connection refused", 2201)
    assert (found.quorum().heard, found.quorum().size) == (2, 3)


def test_no_more_nodes_are_introduced_than_static_is_for() -> None:
    found = static(*range(2, NODES_MAX))
    assert found.learn(90, "10.0.0.90:1", 0)
    assert not found.learn(91, "10.0.0.91:1", 0)
    assert found.turned_away == 1
    assert found.learn(90, "10.0.0.92:1", 0), "one that is known may move"
    assert found.learn(OWN.id, "10.0.0.93:1", 0), "this node itself is no peer"
    assert len(found.members()) == NODES_MAX - 1


def test_a_node_that_moved_is_asked_at_both_addresses_until_it_answers_where_it_was_introduced() -> None:
    found = static(2)
    hear(found, 2, 0, incarnation=7)
    found.changes()
    found.learn(2, "10.0.0.9:1", 100)
    asked = found.due(100)
    assert [it.address for it in asked] == ["10.0.0.2:1", "10.0.0.9:1"]
    found.missed(asked[1], "no answer in time", 2100)
    assert found.members()[0].address == "10.0.0.2:1", "an address alone moves nobody"
    assert state(found, 2) == State.UP, "and its silence kills nobody"
    asked = found.due(2100)
    assert [it.address for it in asked] == ["10.0.0.2:1", "10.0.0.9:1"]
    found.answered(asked[1], say(2, incarnation=8, at=9), 2105)
    found.refused(asked[0], "Connection refused", 2106)
    (change,) = found.changes()
    assert (change.after, change.reborn, change.moved) == (State.UP, True, True)
    assert [it.address for it in found.due(4000)] == ["10.0.0.9:1"]


def test_what_is_said_of_a_nodes_address_changes_nothing_while_it_answers_where_it_is() -> None:
    found = static(2)
    hear(found, 2, 0)
    found.learn(2, "10.0.0.66:1", 100)
    for now_ms in range(1000, 4 * DEATH_MS, 1000):
        right, wrong = found.due(now_ms)
        found.answered(right, say(2), now_ms + 5)
        found.refused(wrong, "Connection refused", now_ms + 6)
        assert (state(found, 2), found.members()[0].address) == (State.UP, "10.0.0.2:1")
    found.learn(2, "10.0.0.2:1", 4 * DEATH_MS)
    assert len(found.due(4 * DEATH_MS)) == 1


def test_a_member_that_left_is_asked_no_more_and_does_not_count_until_it_is_introduced_again() -> None:
    found = static(2, 3)
    hear(found, 2, 0)
    asked = ask(found, 3, 2000)
    found.forget(3, 7)
    found.answered(asked, say(3), 2010)  # its answer was on the way
    found.missed(asked, "late", 2011)
    assert [member.id for member in found.members()] == [2]
    assert found.quorum().size == 2
    assert {it.id for it in found.due(5000)} == {2}
    found.forget(3, 7)
    assert found.learn(3, "10.0.0.3:1", 5100)
    hear(found, 3, 5200, incarnation=8)
    assert (state(found, 3), found.quorum().size) == (State.UP, 3)
