"""Membership by registration, event by event: what entries, their end, claims and an etcd that is away mean."""

from ramster.cluster.membership import Announcement, Event, State, Timing
from ramster.cluster.registry import Registry, decode, encode, lease_s

OWN = Announcement(1, "10.0.0.1:1", 5, 1600, 1600)
TIMING = Timing()
DEATH_MS = TIMING.death_ms


def registry(own: Announcement = OWN) -> Registry:
    found = Registry(own, cluster="lab", timing=TIMING, now_ms=0)
    found.synced([], 0)
    return found


def key(node: int) -> str:
    return f"/ramster/lab/nodes/{node}"


def say(node: int, incarnation: int = 7, address: str = "") -> str:
    return encode(Announcement(node, address or f"10.0.0.{node}:1", incarnation, 100, 60))


def state(found: Registry, node: int) -> State:
    return found.view.records[node].state


def test_what_is_registered_is_up_and_what_ends_is_down_at_once() -> None:
    found = registry()
    found.put(key(2), say(2), 10)
    (member,) = found.members()
    assert (member.id, member.state, member.address, member.incarnation) == (2, State.UP, "10.0.0.2:1", 7)
    assert (member.offered_bytes, member.free_bytes) == (100, 60)
    found.deleted(key(2), 20)
    assert state(found, 2) == State.DOWN
    found.changes()
    found.put(key(2), say(2, 8, "10.0.0.9:1"), 30)
    (change,) = found.changes()
    assert (change.after, change.reborn, change.moved) == (State.UP, True, True)


def test_an_earlier_life_is_not_taken_for_the_node_while_the_later_one_is_registered() -> None:
    found = registry()
    found.put(key(2), say(2, 8), 10)
    found.put(key(2), say(2, 7), 20)
    assert found.view.records[2].incarnation == 8
    assert found.view.stale == 1
    found.deleted(key(2), 30)
    found.put(key(2), say(2, 7), 40)
    assert (state(found, 2), found.view.records[2].incarnation) == (State.UP, 7), "a clock that was set back"


def test_entries_that_are_none_of_ours_are_counted_and_harm_nothing() -> None:
    found = registry()
    for name, value in (
        (key(2), "no JSON"), (key(2), "[]"), (key(2), '{"id":2}'), (key(2), say(3)), (key(0), say(0)),
        (key(2), say(2).replace("100", "-1")), (key(2), say(2).replace("7,", "true,")), (key(2), " " * 5000),
        (key(2), '{"a":' * 2000), ("/ramster/lab/other", say(2)), ("/ramster/lab/nodes/02", say(2)),
    ):  # fmt: skip
        found.put(name, value, 10)
    assert found.refused_entries == 11
    for name in ("/ramster/lab/nodes/x", "/ramster/lab/claims/2", "/ramster/lab/claims/2/y/z", "", key(77)):
        found.deleted(name, 20)
    assert found.members() == []


def test_an_entry_goes_over_the_wire_and_back() -> None:
    assert decode(encode(OWN)) == OWN


def test_the_lease_and_what_etcd_takes_to_end_it_fit_into_the_time_of_noticing() -> None:
    assert lease_s(Timing(5000)) == 4
    assert lease_s(Timing(3000)) == 2


def test_who_has_not_come_back_with_etcd_is_suspect_and_dead_only_after_a_period() -> None:
    found = registry()
    for node in (2, 3):
        found.put(key(node), say(node), 10)
    found.synced([(key(2), say(2))], 1000)
    assert (state(found, 2), state(found, 3)) == (State.UP, State.SUSPECT)
    found.tick(1000 + DEATH_MS - 1)
    assert state(found, 3) == State.SUSPECT
    found.tick(1000 + DEATH_MS)
    assert state(found, 3) == State.DOWN
    found.synced([(key(2), say(2)), (key(3), say(3))], 9000)
    assert state(found, 3) == State.UP


def test_quorum_is_the_lease_counted_from_when_its_renewal_was_asked_for() -> None:
    found = registry()
    assert found.quorum().reason == "not registered yet"
    found.kept(1000, 1900)
    assert found.quorum().held
    found.lost("etcd: no answer in time", 3000)
    assert found.quorum().held
    found.put(key(2), say(2), 3000)
    found.tick(5001)
    assert not found.quorum().held
    assert found.quorum().reason == "no lease for 4001 ms: etcd: no answer in time"
    assert state(found, 2) == State.UP, "the last view stays"
    found.kept(5100, 5200)
    assert found.quorum().held
    found.gone("the lease has ended", 5300)
    assert not found.quorum().held


def test_a_node_that_was_suspended_has_no_quorum_before_its_first_renewal() -> None:
    found = registry()
    found.kept(1000, 1001)
    found.tick(61_000)
    assert not found.quorum().held


def test_two_nodes_with_one_id_are_neither_used_until_one_is_gone() -> None:
    found = registry()
    found.put(key(3), say(3, 7), 0)
    found.put(key(3), say(3, 9, "10.0.0.9:1"), 100)
    claim = "/ramster/lab/claims/3/7"
    found.put(claim, say(3, 7), 200)
    assert state(found, 3) == State.DOWN
    assert "two nodes claim id 3: 10.0.0.9:1 and 10.0.0.3:1" in found.members()[0].reason
    found.tick(60_000)
    assert state(found, 3) == State.DOWN
    found.deleted(claim, 60_100)
    found.tick(60_200 + DEATH_MS)
    assert state(found, 3) == State.UP


def test_a_node_whose_id_is_taken_knows_it_and_has_no_quorum_meanwhile() -> None:
    found = registry()
    found.put(found.own_key, encode(OWN), 0)
    found.kept(0, 0)
    assert found.registered == OWN
    found.put(found.own_key, say(1, 99, "10.0.0.9:1"), 1000)
    assert found.overtaken
    found.kept(60_000, 60_000)
    assert "10.0.0.9:1 claims this node's id 1" in found.quorum().reason
    found.deleted(found.own_key, 61_000)
    assert not found.overtaken
    found.kept(70_000, 70_000)
    assert found.quorum().held


def test_free_bytes_are_told_by_sixteenths_and_everything_else_at_once() -> None:
    found = registry()
    assert found.worth_telling(None)
    assert not found.worth_telling(Announcement(1, "10.0.0.1:1", 5, 1600, 1501))
    assert found.worth_telling(Announcement(1, "10.0.0.1:1", 5, 1600, 1499))
    assert found.worth_telling(Announcement(1, "10.0.0.1:1", 4, 1600, 1600))
    assert found.worth_telling(Announcement(1, "10.0.0.1:1", 5, 800, 1600))


def test_a_node_that_flaps_is_held_although_it_is_registered() -> None:
    found = registry()
    for at_ms in (0, 1000, 2000):
        found.put(key(2), say(2), at_ms)
        found.deleted(key(2), at_ms + 500)
    found.put(key(2), say(2), 3000)
    assert state(found, 2) == State.DOWN
    found.tick(3000 + 4 * TIMING.heartbeat_ms)
    assert state(found, 2) == State.UP


def test_members_are_bounded_and_those_longest_down_go_first() -> None:
    from ramster.cluster.view import MEMBERS_MAX, View

    view = View(1, TIMING)
    for node in range(2, MEMBERS_MAX + 3):
        view.add(node, "x:1", 0)
        if node in (5, 6):
            view.heard(Announcement(node, "x:1", 1), node, node)
            view.event(node, Event.LEFT, "gone", node)
    assert view.forgotten == 1
    assert 5 not in view.records
    assert 6 in view.records


def test_a_member_that_left_is_believed_again_in_a_later_life_alone_and_a_revoked_one_never() -> None:
    found = registry()
    found.put(key(2), say(2, 7), 10)
    found.put(key(3), say(3, 7), 10)
    found.forget(2, 7)
    found.forget(3, None)
    # What it says of its last moments, or what etcd lists of it after that, is not believed.
    found.put(key(2), say(2, 7), 20)
    found.synced([(key(2), say(2, 7)), (key(3), say(3, 9))], 30)
    found.tick(40)
    assert found.members() == []
    found.deleted(key(2), 50)
    found.put(key(2), say(2, 8), 60)
    found.put(key(3), say(3, 10), 60)
    assert [(member.id, member.state) for member in found.members()] == [(2, State.UP)]
