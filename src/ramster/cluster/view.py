"""The members of one node's view: what is known of each, and what an event does to it. Covers lives, rival claims and the
damping of flaps. Shared by all back ends.

Not: where events come from, or when silence is death; those are `static` and `registry`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ramster.cluster.membership import TABLE, Announcement, Change, Event, Member, State, Timing

# The last events of a member, told when something forbidden happens.
STORY_EVENTS = 16
# More nodes than etcd's own limit on watchers is comfortable with. Beyond it the ones longest down are forgotten.
MEMBERS_MAX = 4096


@dataclass
class Rival:
    """Another life that claims a member's id and is alive at the same time."""

    address: str
    incarnation: int
    heard_ms: int


@dataclass
class Record:
    """All that is known of one member. Times in ms; `born_ms` is when this life was first heard of."""

    id: int
    address: str
    silent_from_ms: int
    state: State = State.UNKNOWN
    incarnation: int | None = None
    born_ms: int = 0
    offered_bytes: int = 0
    free_bytes: int = 0
    heard_ms: int | None = None
    reason: str = ""
    rival: Rival | None = None
    left: bool = False
    deaths: int = 0
    calm_ms: int = 0
    steady_ms: int | None = None
    story: list[str] = field(default_factory=list)

    def member(self) -> Member:
        """As others see it."""
        return Member(
            self.id, self.address, self.state, self.incarnation, self.offered_bytes, self.free_bytes, self.heard_ms,
            self.reason,
        )  # fmt: skip


class View:
    """Every other member by id. No method knows a clock: `now_ms` never goes back."""

    def __init__(self, own_id: int, timing: Timing) -> None:
        self.own_id = own_id
        self.timing = timing
        self.records: dict[int, Record] = {}
        self.own_rival: Rival | None = None
        self.stale = 0
        self.forgotten = 0
        self._before: dict[int, tuple[State, int | None, str]] = {}

    def add(self, node: int, address: str, now_ms: int) -> Record:
        """A member that nothing is known of yet."""
        if len(self.records) >= MEMBERS_MAX:
            self._forget()
        record = Record(node, address, now_ms)
        self.records[node] = record
        return record

    def forget(self, node: int) -> None:
        """No longer a member."""
        self.records.pop(node, None)
        self._before.pop(node, None)

    def heard(self, said: Announcement, asked_ms: int, now_ms: int) -> None:
        """The member lives: it said so in answer to a question asked at `asked_ms`, which is the time that counts."""
        record = self.records[said.id]
        if self.earlier(record, said, now_ms):
            self._stale(record, said, now_ms)
            return
        if record.incarnation != said.incarnation:
            self._remember(record)
            record.incarnation, record.born_ms, record.address = said.incarnation, now_ms, said.address
        record.left = False
        record.offered_bytes, record.free_bytes = said.offered_bytes, said.free_bytes
        record.heard_ms = max(record.heard_ms or 0, asked_ms)
        record.silent_from_ms = max(record.silent_from_ms, asked_ms)
        held = self._held(record, now_ms)
        self._apply(record, Event.HELD if held else Event.ANSWERED, held, now_ms)

    def claimed(self, said: Announcement, now_ms: int) -> None:
        """Somebody else says that it is this member, or this node, and is alive."""
        rival = Rival(said.address, said.incarnation, now_ms)
        if said.id == self.own_id:
            self.own_rival = rival
            return
        record = self.records[said.id]
        record.rival = rival
        self._apply(record, Event.CLAIMED, _both(record), now_ms)

    def overheard(self, said: Announcement, now_ms: int) -> None:
        """A member's earlier life spoke to us."""
        self._stale(self.records[said.id], said, now_ms)

    def event(self, node: int, event: Event, reason: str, now_ms: int) -> None:
        """A miss, silence, a refusal or a leave."""
        record = self.records[node]
        if record.rival is not None and record.state == State.DOWN:
            return  # the claim says more than a miss
        record.left = event == Event.LEFT
        record.steady_ms = None
        self._apply(record, event, reason, now_ms)

    def settle(self, now_ms: int) -> None:
        """Forgets rivals that have been silent for `death_ms`, and deaths of those that have been calm."""
        for record in self.records.values():
            if record.rival is not None and now_ms - record.rival.heard_ms > self.timing.death_ms:
                record.rival = None
            if record.deaths and record.state == State.UP and now_ms - record.calm_ms >= self.timing.flap_memory_ms:
                record.deaths -= 1
                record.calm_ms = now_ms
        if self.own_rival is not None and now_ms - self.own_rival.heard_ms > self.timing.death_ms:
            self.own_rival = None

    def forgive(self, now_ms: int) -> None:
        """This node itself did not run: everybody's silence begins anew."""
        for record in self.records.values():
            record.silent_from_ms = max(record.silent_from_ms, now_ms)

    @property
    def changed(self) -> bool:
        """Whether `changes` may have something to say."""
        return bool(self._before)

    def members(self) -> list[Member]:
        """By id."""
        return [self.records[node].member() for node in sorted(self.records)]

    def changes(self) -> list[Change]:
        """Since the last call; what changed and changed back is left out."""
        found = []
        for node, (state, incarnation, address) in sorted(self._before.items()):
            record = self.records.get(node)
            if record is None:
                continue
            reborn = incarnation is not None and record.incarnation != incarnation
            moved = record.address != address
            if record.state != state or reborn or moved:
                found.append(Change(node, state, record.state, reborn, moved, record.reason))
        self._before.clear()
        return found

    def earlier(self, record: Record, said: Announcement, now_ms: int) -> bool:
        """Whether these are words of an earlier life than the known one. When that one has been gone for long, an earlier number
        is a clock that was set back, and no old message."""
        if record.incarnation is None or said.incarnation >= record.incarnation:
            return False
        silent_ms = now_ms - max(record.silent_from_ms, record.heard_ms or 0)
        return not (record.state == State.DOWN and (record.left or silent_ms >= self.timing.death_ms))

    def _stale(self, record: Record, said: Announcement, now_ms: int) -> None:
        """Words of an earlier life: an old message, or, once those have run out, somebody with the same id."""
        self.stale += 1
        if now_ms - record.born_ms > self.timing.ask_ms + self.timing.heartbeat_ms:
            self.claimed(said, now_ms)

    def _held(self, record: Record, now_ms: int) -> str:
        """Why a member that answers is not used yet, or nothing."""
        if record.rival is not None:
            return _both(record)
        if record.state != State.DOWN or record.deaths < 2:
            return ""
        if record.steady_ms is None:
            record.steady_ms = now_ms
        hold_ms = min(self.timing.heartbeat_ms << (record.deaths - 1), self.timing.hold_most_ms)
        left_ms = record.steady_ms + hold_ms - now_ms
        return (
            f"answers again, but died {record.deaths} times lately: used after {hold_ms} ms of answers"
            if left_ms > 0
            else ""
        )

    def _apply(self, record: Record, event: Event, reason: str, now_ms: int) -> None:
        record.story = [*record.story[1 - STORY_EVENTS :], f"{now_ms} {record.state} {event}"]
        after = TABLE.get((record.state, event))
        assert after is not None, f"node {record.id}: {event} in state {record.state} is forbidden: {record.story}"
        # A death's first reason says most; what follows it is only more of the same.
        if event != Event.MISSED or record.state != State.DOWN:
            record.reason = reason
        if after == record.state:
            return
        self._remember(record)
        if after == State.DOWN and record.state != State.UNKNOWN:
            # Eight doublings exceed any hold; the number is only kept from growing for ever.
            record.deaths = min(record.deaths + 1, 8)
            record.steady_ms = None
        if after == State.UP:
            record.calm_ms = now_ms
        record.state = after

    def _remember(self, record: Record) -> None:
        self._before.setdefault(record.id, (record.state, record.incarnation, record.address))

    def _forget(self) -> None:
        down = [record for record in self.records.values() if record.state == State.DOWN]
        if down:
            oldest = min(down, key=lambda record: (record.heard_ms or 0, record.id))
            del self.records[oldest.id]
            self.forgotten += 1


def _both(record: Record) -> str:
    assert record.rival is not None
    return (
        f"two nodes claim id {record.id}: {record.address} and {record.rival.address}; neither is used; "
        "give one of them an id of its own"
    )
