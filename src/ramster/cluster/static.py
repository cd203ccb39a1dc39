"""Membership of the nodes that a file lists or that introduced themselves: each asks every other one, a heartbeat apart. Covers
whom to ask when, what an answer or its absence means, and quorum. Pure: answers come in with their time.

Not: how a peer is asked (`node.heartbeats`), or what follows from its state (`policy`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ramster.cluster.membership import Announcement, Change, Event, Member, Quorum, State, Timing
from ramster.cluster.view import Record, View
from ramster.errors import ConfigError

# Every node asks every other one, so questions grow with the square: 32 nodes ask 992 a second. docs/membership.md has
# the figures; more nodes than this register with etcd.
NODES_MAX = 32


@dataclass(frozen=True)
class Ask:
    """One question: who is at this address? Its outcome comes back by `answered`, `missed` or `refused`."""

    id: int
    address: str
    asked_ms: int


@dataclass
class _Schedule:
    """When a member is asked next, and where else it says that it lives."""

    next_ms: int
    asking_ms: int | None = None
    elsewhere: Announcement | None = None
    introduced: str | None = None


class Static:
    """The membership of one node. Every method takes the time in monotonic ms, which never goes back."""

    def __init__(
        self, own: Announcement, peers: Iterable[tuple[int, str]], *, timing: Timing, now_ms: int, path: str
    ) -> None:
        """Raises ConfigError when two nodes have one id, or there are more than NODES_MAX."""
        self.own = own
        self.timing = timing
        self.path = path
        self.view = View(own.id, timing)
        self.unknown_askers = 0
        self.turned_away = 0
        self._now_ms = now_ms
        self._resumed_ms = now_ms
        self._schedule: dict[int, _Schedule] = {}
        listed = list(peers)
        if len(listed) >= NODES_MAX:
            cure = 'use membership = "etcd" in [cluster] for more'
            raise ConfigError(f"{path}: {len(listed) + 1} nodes are listed, {NODES_MAX} is the most; {cure}")
        for index, (node, address) in enumerate(listed):
            if node == own.id:
                raise ConfigError(f"{path}: peer {node} has this node's own id; give every node an id of its own")
            if node in self._schedule:
                raise ConfigError(f"{path}: two peers have id {node}; give every node an id of its own")
            self.view.add(node, address, now_ms)
            # Spread over a heartbeat, so that a node's questions do not come in one burst.
            self._schedule[node] = _Schedule(now_ms + timing.heartbeat_ms * index // len(listed))

    def announce(self, own: Announcement) -> None:
        """What this node says of itself from now on."""
        self.own = own

    def learn(self, node: int, address: str, now_ms: int) -> bool:
        """A node was introduced: a new member, or one that may have moved. False when there are NODES_MAX already.

        A new address is asked beside the old one, with each heartbeat, until the node answers there: its answer alone counts.
        """
        self.tick(now_ms)
        if node == self.own.id:
            return True
        schedule = self._schedule.get(node)
        if schedule is None:
            if len(self._schedule) + 1 >= NODES_MAX:
                self.turned_away += 1
                return False
            self.view.add(node, address, self._now_ms)
            self._schedule[node] = _Schedule(self._now_ms)
        elif address == self.view.records[node].address:
            schedule.introduced = None
        elif address != schedule.introduced:
            schedule.introduced = address
            schedule.next_ms, schedule.asking_ms = self._now_ms, None
        return True

    def forget(self, node: int, life: int | None) -> None:  # noqa: ARG002
        """The node left for good: it is asked no more and does not count for quorum, unless it is introduced again."""
        self.view.forget(node)
        self._schedule.pop(node, None)

    def tick(self, now_ms: int) -> None:
        """Lets time pass: silence becomes death, unless it was this node that did not run."""
        now_ms = max(now_ms, self._now_ms)
        if now_ms - self._now_ms > self.timing.suspended_ms:
            self._resume(now_ms)
        self._now_ms = now_ms
        self.view.settle(now_ms)
        for record in self.view.records.values():
            if record.state != State.DOWN and now_ms >= self._death_ms(record):
                why = f" ({record.reason})" if record.reason else ""
                self.view.event(record.id, Event.SILENT, f"silent for {self.timing.death_ms} ms{why}", now_ms)

    def due(self, now_ms: int) -> list[Ask]:
        """The questions to ask now. Each counts as unanswered until its outcome is told, or for `death_ms`."""
        self.tick(now_ms)
        asks = []
        for node, schedule in self._schedule.items():
            if schedule.asking_ms is not None and now_ms - schedule.asking_ms < self.timing.death_ms:
                continue
            if now_ms < schedule.next_ms:
                continue
            schedule.next_ms = now_ms + self.timing.heartbeat_ms
            schedule.asking_ms = now_ms
            asks.append(Ask(node, self.view.records[node].address, now_ms))
            if schedule.elsewhere is not None:
                asks.append(Ask(node, schedule.elsewhere.address, now_ms))
                schedule.elsewhere = None
            if schedule.introduced is not None:
                asks.append(Ask(node, schedule.introduced, now_ms))
        return asks

    def answered(self, ask: Ask, said: Announcement, now_ms: int) -> None:
        """The node at `ask.address` said who it is. Only this proves that a member is alive and can be reached."""
        if not self._counts(ask, now_ms):
            return
        if said.id == ask.id:
            self.view.heard(said, ask.asked_ms, self._now_ms)
            schedule = self._schedule[ask.id]
            if ask.address == schedule.introduced and said.incarnation == self.view.records[ask.id].incarnation:
                schedule.introduced = None
            return
        reason = f"{ask.address} answers as node {said.id}; correct the id or the address in {self.path}"
        if ask.address == self.view.records[ask.id].address:
            self.view.event(ask.id, Event.REFUSED, reason, self._now_ms)
        known = self.own if said.id == self.own.id else self.view.records.get(said.id)
        if known is not None and known.incarnation not in (None, said.incarnation):
            self.view.claimed(said, self._now_ms)

    def missed(self, ask: Ask, reason: str, now_ms: int) -> None:
        """No answer in time, or a broken one: a slow answer is not a dead peer."""
        if self._counts(ask, now_ms) and ask.address == self.view.records[ask.id].address:
            self.view.event(ask.id, Event.MISSED, reason, self._now_ms)

    def refused(self, ask: Ask, reason: str, now_ms: int) -> None:
        """The machine is there and nobody listens: the process is gone, and with it the pages that it held."""
        if self._counts(ask, now_ms) and ask.address == self.view.records[ask.id].address:
            self.view.event(ask.id, Event.REFUSED, reason, self._now_ms)

    def announced(self, said: Announcement, now_ms: int) -> None:
        """A node asked us and said who it is. That proves nothing about the way to it: a new address is asked first."""
        self.tick(now_ms)
        if said.id == self.own.id:
            if said.incarnation != self.own.incarnation:
                self.view.claimed(said, self._now_ms)
            return
        record = self.view.records.get(said.id)
        if record is None:
            self.unknown_askers += 1
        elif self.view.earlier(record, said, self._now_ms):
            self.view.overheard(said, self._now_ms)
        else:
            self._look(record, said)

    def looking_for(self) -> list[int]:
        """Whom this node does not hear. Its questions carry these: two nodes that moved at once know no way to each other."""
        return [node for node, record in self.view.records.items() if record.state == State.DOWN]

    def whereabouts(self, wanted: Iterable[int]) -> list[Announcement]:
        """Where this node hears the ones that somebody looks for."""
        found = []
        for node in wanted:
            record = self.view.records.get(node)
            if record is None or record.incarnation is None or record.rival is not None:
                continue
            if self._now_ms - (record.heard_ms or 0) <= self.timing.death_ms:
                found.append(Announcement(node, record.address, record.incarnation))
        return found

    def told(self, said: Announcement, now_ms: int) -> None:
        """A node that we asked says where it hears another one. That is asked; its own answer alone counts."""
        self.tick(now_ms)
        record = self.view.records.get(said.id)
        if record is not None and record.state == State.DOWN and not self.view.earlier(record, said, self._now_ms):
            self._look(record, said)

    def members(self) -> list[Member]:
        """Every other node that was listed or introduced, by id."""
        return self.view.members()

    def changes(self) -> list[Change]:
        """Since this was last asked for."""
        return self.view.changes()

    def quorum(self) -> Quorum:
        """Of all nodes that were listed or introduced, whether they were ever up or not. One not yet heard of counts while its
        first `death_ms` lasts."""
        peers = list(self.view.records.values())
        size = len(peers) + 1
        heard = 1 + sum(record.state != State.DOWN for record in peers)
        if self.view.own_rival is not None:
            reason = (
                f"{self.view.own_rival.address} claims this node's id {self.own.id}; give one of them an id of its own"
            )
            return Quorum(False, heard, size, reason)
        lower = size == 2 and self.own.id < peers[0].id
        held = 2 * heard > size or (2 * heard == size and (size > 2 or lower))
        return Quorum(held, heard, size, f"hears {heard} of {size} nodes")

    def next_ms(self) -> int:
        """When there is something to ask or to notice, at the latest; a heartbeat away when there is nothing."""
        found = [self._now_ms + self.timing.heartbeat_ms]
        for node, schedule in self._schedule.items():
            record = self.view.records[node]
            if schedule.asking_ms is None:
                found.append(schedule.next_ms)
            if record.state != State.DOWN:
                found.append(self._death_ms(record))
        return min(found)

    def _look(self, record: Record, said: Announcement) -> None:
        schedule = self._schedule[said.id]
        if said.incarnation != record.incarnation and said.address != record.address and schedule.elsewhere != said:
            schedule.elsewhere = said
            schedule.next_ms, schedule.asking_ms = self._now_ms, None

    def _death_ms(self, record: Record) -> int:
        return record.silent_from_ms + self.timing.death_ms

    def _resume(self, now_ms: int) -> None:
        """We were suspended, or our clock jumped: what was asked before means nothing, and everybody has a period to answer."""
        self._resumed_ms = now_ms
        self.view.forgive(now_ms)
        for schedule in self._schedule.values():
            schedule.asking_ms = None
            schedule.next_ms = now_ms

    def _counts(self, ask: Ask, now_ms: int) -> bool:
        """Whether an outcome is of use: not one that was asked for before this node was suspended, or long ago."""
        self.tick(now_ms)
        schedule = self._schedule.get(ask.id)
        if schedule is None:
            return False  # it left while the question was on its way
        if schedule.asking_ms == ask.asked_ms:
            schedule.asking_ms = None
        return ask.asked_ms >= self._resumed_ms and self._now_ms - ask.asked_ms < self.timing.death_ms
