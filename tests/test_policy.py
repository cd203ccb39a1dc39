"""Decisions from snapshots: plain data in, plain data out."""

from ramster.policy import split
from ramster.policy.directives import RELEASED_BYTES, ClientSnapshot, MachineSnapshot, decide, greet

GIB = 1 << 30
MIB = 1 << 20


def test_auto_leaves_a_tenth_of_the_room() -> None:
    part = split.auto(10 * GIB)
    assert part.local_bytes == 9 * GIB
    assert part.resident_bytes is None
    assert "90 %" in part.reason


def test_auto_on_a_full_machine_still_lets_a_program_run() -> None:
    assert split.auto(0).local_bytes == split.LEAST_BYTES


def test_the_resident_part_never_exceeds_the_limit() -> None:
    assert split.fixed(GIB, 2 * GIB).resident_bytes == GIB


def test_a_client_without_peers_is_told_to_send_nothing() -> None:
    assert greet(7, peers=0, quorum=True).message() == {"remotify": False, "repatriate": True}
    assert greet(7, peers=2, quorum=True).message() == {"remotify": True, "repatriate": True}


def test_without_quorum_nothing_is_sent_to_anybody_whatever_else_is_decided() -> None:
    assert greet(7, peers=2, quorum=False).message() == {"remotify": False, "repatriate": True}
    short = MachineSnapshot(16 * GIB, 0)
    assert not any(it.remotify for it in decide(short, [ClientSnapshot(1, GIB, None)], peers=2, quorum=False))
    roomy = MachineSnapshot(16 * GIB, 8 * GIB)
    assert not any(it.remotify for it in decide(roomy, [ClientSnapshot(1, GIB, GIB)], peers=2, quorum=False))


def test_nothing_is_decided_while_the_machine_has_room() -> None:
    machine = MachineSnapshot(16 * GIB, 4 * GIB)
    assert decide(machine, [ClientSnapshot(1, 2 * GIB, None)], peers=1, quorum=True) == []


def test_a_short_machine_takes_from_every_client_by_its_size_with_a_reason() -> None:
    machine = MachineSnapshot(16 * GIB, 16 * GIB // 50)
    found = decide(machine, [ClientSnapshot(1, 6 * GIB, None), ClientSnapshot(2, 2 * GIB, None)], peers=1, quorum=True)
    missing = 16 * GIB * 10 // 100 - 16 * GIB // 50
    assert [directive.pid for directive in found] == [1, 2]
    assert found[0].resident_bytes == 6 * GIB - missing * 6 // 8
    assert found[1].resident_bytes == 2 * GIB - missing * 2 // 8
    assert "less than 5 %" in found[0].reason


def test_between_the_two_marks_nothing_flaps() -> None:
    machine = MachineSnapshot(16 * GIB, 16 * GIB * 7 // 100)
    assert decide(machine, [ClientSnapshot(1, GIB, 500 * MIB)], peers=1, quorum=True) == []


def test_room_again_gives_every_held_client_its_own_limit_back_and_only_those() -> None:
    machine = MachineSnapshot(16 * GIB, 8 * GIB)
    found = decide(machine, [ClientSnapshot(1, GIB, 500 * MIB), ClientSnapshot(2, GIB, None)], peers=0, quorum=True)
    assert [(directive.pid, directive.resident_bytes) for directive in found] == [(1, RELEASED_BYTES)]


def test_pages_come_home_by_themselves_only_when_the_machine_is_not_short() -> None:
    short = decide(MachineSnapshot(16 * GIB, 0), [ClientSnapshot(1, GIB, None)], peers=1, quorum=True)
    assert [directive.repatriate for directive in short] == [False]
    roomy = decide(MachineSnapshot(16 * GIB, 8 * GIB), [ClientSnapshot(1, GIB, GIB)], peers=1, quorum=True)
    assert [directive.repatriate for directive in roomy] == [True]


def test_no_client_is_squeezed_below_what_frames_in_flight_need() -> None:
    machine = MachineSnapshot(16 * GIB, 0)
    found = decide(machine, [ClientSnapshot(1, 20 * MIB, None)], peers=1, quorum=True)
    assert found[0].resident_bytes == 16 * MIB
