"""The contract of membership, for every back end: `static` under a simulated clock and network, here also by hundreds of random
histories. And that it bites: back ends with planted bugs fail it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

import membership_contract as contract
from ramster.cluster import static
from ramster.cluster.membership import Announcement, Member, Quorum, State, Timing
from simulated_nodes import SimulatedCluster

TIMING = Timing()
# After a heal: a question that was lost is given up, or the next one is due; of two that moved at once, one is first found by
# a third, and then by way of it. A member that flapped is held besides. docs/membership.md states the same.
RETURN_MS = 2 * (max(TIMING.ask_ms, TIMING.heartbeat_ms) + TIMING.heartbeat_ms)
HISTORIES = 100


class Simulated:
    """`static` on a simulated clock and network, as the contract wants it."""

    death_ms = TIMING.death_ms
    notice_ms = TIMING.death_ms + 50  # the scheduler's and the check's own steps
    converge_ms = RETURN_MS + TIMING.hold_most_ms
    cut_ms = TIMING.death_ms + 50
    slow_ms = TIMING.ask_ms + TIMING.heartbeat_ms // 2  # one heartbeat is missed

    def __init__(self, seed: int, make: type[static.Static] = static.Static) -> None:
        print("seed", seed)
        self.cluster = SimulatedCluster(contract.NODES, seed, make=make)
        self.start = self.cluster.start
        self.kill = self.stop = self.cluster.kill
        self.vanish, self.suspend, self.resume = self.cluster.vanish, self.cluster.suspend, self.cluster.resume
        self.cut, self.heal = self.cluster.cut, self.cluster.heal
        self.seen: dict[tuple[int, int, int], int] = {}

    def advance(self, ms: int) -> None:
        self.cluster.advance(ms)

    def until(self, condition: Callable[[], bool], within_ms: int) -> bool:
        return condition() or self.cluster.advance(within_ms, until=condition)

    def view(self, node: int) -> dict[int, Member]:
        return self.cluster.view(node)

    def quorum(self, node: int) -> Quorum:
        return self.cluster.quorum(node)

    def incarnation(self, node: int) -> int:
        own = self.cluster.nodes[node].own
        assert own is not None
        return own.incarnation

    def address(self, node: int) -> str:
        return self.cluster.nodes[node].address

    def lives_never_go_back(self) -> None:
        for observer in self.cluster.running():
            for member in self.view(observer).values():
                key = (observer, self.cluster.nodes[observer].life, member.id)
                assert (member.incarnation or 0) >= self.seen.get(key, 0), (
                    f"an earlier life of node {member.id} is back"
                )
                self.seen[key] = member.incarnation or 0


@pytest.mark.parametrize("scenario", contract.SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_static(scenario: Callable[[contract.Cluster, random.Random], None]) -> None:
    for _ in range(20):
        seed = random.randrange(1 << 32)
        scenario(Simulated(seed), random.Random(seed))


def histories(make: type[static.Static], count: int, seeds: random.Random) -> None:
    for _ in range(count):
        seed = seeds.randrange(1 << 32)
        found = Simulated(seed, make)
        chance = random.Random(seed)
        # Up to as slow as an answer may be: a message may come after its sender's death and next life.
        found.cluster.delay_ms_most = chance.choice([10, 40, 900])
        if found.cluster.delay_ms_most > 40:
            found.converge_ms += 2000
        contract.a_random_history_ends_with_one_view(found, chance, check=found.lives_never_go_back)


def test_static_hundreds_of_random_histories_end_with_one_view() -> None:
    seed = random.randrange(1 << 32)
    print("seed of all", seed)
    histories(static.Static, HISTORIES, random.Random(seed))


def test_one_seed_is_one_history() -> None:
    def run() -> tuple[int, int, list[str]]:
        found = Simulated(7)
        contract.a_random_history_ends_with_one_view(found, random.Random(7))
        return found.cluster.now_ms, found.cluster.messages, [contract.story(found, set(found.cluster.running()))]

    assert run() == run()


class StaleLifeAccepted(static.Static):
    """Bug: who asks us is believed, whichever life it says it is."""

    def announced(self, said: Announcement, now_ms: int) -> None:
        super().announced(said, now_ms)
        if said.id in self.view.records:
            self.view.records[said.id].incarnation = said.incarnation


class SuspectForEver(static.Static):
    """Bug: a missed heartbeat is never forgiven."""

    def answered(self, ask: static.Ask, said: Announcement, now_ms: int) -> None:
        if self.view.records[ask.id].state != State.SUSPECT:
            super().answered(ask, said, now_ms)


class OwnSuspensionKillsAll(static.Static):
    """Bug: the time in which this node did not run counts as everybody else's silence."""

    def _resume(self, now_ms: int) -> None:
        pass


class MissIsDeath(static.Static):
    """Bug: one slow answer and the peer is dead."""

    def missed(self, ask: static.Ask, reason: str, now_ms: int) -> None:
        self.refused(ask, reason, now_ms)


class SilenceNeverKills(static.Static):
    """Bug: only a refused connection is a death."""

    def tick(self, now_ms: int) -> None:
        self.view.forgive(now_ms)
        super().tick(now_ms)


class HearsaySaysAlive(static.Static):
    """Bug: being asked counts as having been answered, although the way there may be cut."""

    def announced(self, said: Announcement, now_ms: int) -> None:
        super().announced(said, now_ms)
        if said.id in self.view.records:
            self.view.heard(said, now_ms, now_ms)


class AddressOfTheFileForEver(static.Static):
    """Bug: a node that moved is looked for where it was."""

    def announced(self, said: Announcement, now_ms: int) -> None:
        pass


@pytest.mark.parametrize(
    "bug",
    [
        StaleLifeAccepted,
        SuspectForEver,
        OwnSuspensionKillsAll,
        MissIsDeath,
        SilenceNeverKills,
        HearsaySaysAlive,
        AddressOfTheFileForEver,
    ],
)
def test_the_contract_finds_a_planted_bug(bug: type[static.Static]) -> None:
    failed = []
    for scenario in contract.SCENARIOS:
        try:
            for seed in range(5):
                scenario(Simulated(seed, bug), random.Random(seed))
        except AssertionError:
            failed.append(scenario.__name__)
    print(bug.__name__, "is found by", failed)
    assert failed


@pytest.mark.parametrize("bug", [StaleLifeAccepted, SilenceNeverKills, AddressOfTheFileForEver])
def test_random_histories_alone_find_a_planted_bug(bug: type[static.Static]) -> None:
    with pytest.raises(AssertionError):
        histories(bug, 60, random.Random(1))
