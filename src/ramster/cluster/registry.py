"""Membership by registration: nodes put themselves under a lease into etcd, and watch each other. Covers what entries and their
end mean, and quorum. Pure: events come in with their time.

Keys: `/ramster/CLUSTER/nodes/ID`, a JSON object; `/ramster/CLUSTER/claims/ID/INCARNATION`, by a node that finds its id taken.
Not: leases, watches and sockets (`node.registration`, `transport.etcd`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from ramster.cluster.membership import Announcement, Change, Event, Member, Quorum, State, Timing
from ramster.cluster.view import View

# A registration is some 150 bytes; whoever writes more is no node of ours.
VALUE_BYTES_MAX = 4096
# How much of the offer must have come or gone before it is worth telling every other node: each telling is a message to all.
TOLD_FRACTION = 16


def lease_s(timing: Timing) -> int:
    """The lease's time: etcd counts whole seconds and takes up to one more to notice, all of it within `death_ms`."""
    return max((timing.death_ms - 1000) // 1000, 1)


def encode(own: Announcement) -> str:
    """The value that a node registers."""
    return json.dumps(
        {"id": own.id, "address": own.address, "incarnation": own.incarnation, "offer": own.offered_bytes,
         "free": own.free_bytes},
        separators=(",", ":"),
    )  # fmt: skip


def decode(value: str) -> Announcement | None:
    """What a node registered, or None when it is no registration: others may write to the store too."""
    if len(value) > VALUE_BYTES_MAX:
        return None
    try:
        found = json.loads(value)
        numbers = [found[key] for key in ("id", "incarnation", "offer", "free")]
        address = found["address"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(address, str) or not all(type(number) is int and 0 <= number < 1 << 64 for number in numbers):
        return None
    return Announcement(numbers[0], address, numbers[1], numbers[2], numbers[3])


class Registry:
    """The membership of one node, from what is registered. Time in monotonic ms, which never goes back."""

    def __init__(self, own: Announcement, *, cluster: str, timing: Timing, now_ms: int) -> None:
        self.own = own
        self.timing = timing
        self.view = View(own.id, timing)
        self.nodes_prefix = f"/ramster/{cluster}/nodes/"
        self.claims_prefix = f"/ramster/{cluster}/claims/"
        self.prefix = f"/ramster/{cluster}/"
        self.refused_entries = 0
        self._now_ms = now_ms
        self._kept_ms: int | None = None
        self._away = "not registered yet"
        self._registered: dict[int, Announcement] = {}
        self._missing: dict[int, int] = {}
        self._claims: dict[int, dict[int, str]] = {}
        self._namesake: Announcement | None = None
        # Who left for good, and up to which life; None: whatever life.
        self._left: dict[int, int | None] = {}
        # What is registered for this node, as far as it knows.
        self.registered: Announcement | None = None

    @property
    def own_key(self) -> str:
        """Where this node registers."""
        return f"{self.nodes_prefix}{self.own.id}"

    @property
    def overtaken(self) -> bool:
        """Whether somebody else is registered under this node's id."""
        return self._namesake is not None

    @property
    def own_claim(self) -> str:
        """Where it says that somebody else has its id."""
        return f"{self.claims_prefix}{self.own.id}/{self.own.incarnation}"

    def forget(self, node: int, life: int | None) -> None:
        """The node left for good: what is still registered of that life does not count."""
        self._left[node] = life
        self._registered.pop(node, None)
        self._missing.pop(node, None)
        self._claims.pop(node, None)
        self.view.forget(node)

    def announce(self, own: Announcement) -> None:
        """What this node says of itself from now on."""
        self.own = own

    def worth_telling(self, told: Announcement | None) -> bool:
        """Whether what was registered last is too far from what is so now."""
        if told is None or (told.address, told.incarnation, told.offered_bytes) != (
            self.own.address, self.own.incarnation, self.own.offered_bytes,
        ):  # fmt: skip
            return True
        return abs(told.free_bytes - self.own.free_bytes) * TOLD_FRACTION > max(self.own.offered_bytes, 1)

    def synced(self, entries: Iterable[tuple[str, str]], now_ms: int) -> None:
        """All entries that there are. Who is no longer among them may only not have come back yet: it gets a period."""
        self.tick(now_ms)
        before = set(self._registered)
        self._registered.clear()
        self._claims.clear()
        self._namesake = None
        for key, value in entries:
            self.put(key, value, now_ms)
        for node in (before - set(self._registered)) & set(self.view.records):
            self._missing.setdefault(node, self._now_ms)
            self.view.event(node, Event.MISSED, "not registered since etcd is back", self._now_ms)

    def put(self, key: str, value: str, now_ms: int) -> None:
        """An entry was written. Looks at this one alone: 200 nodes that come at once are 40,000 such calls."""
        self._now_ms = max(now_ms, self._now_ms)
        said = decode(value)
        if said is None or not (self._is_node(key, said) or self._is_claim(key, said)):
            self.refused_entries += 1
            return
        if self._has_left(said):
            return
        if key.startswith(self.claims_prefix):
            self._claims.setdefault(said.id, {})[said.incarnation] = said.address
            self._claim(said.id)
        elif said.id != self.own.id:
            self._registered[said.id] = said
            self._missing.pop(said.id, None)
            if said.id not in self.view.records:
                self.view.add(said.id, said.address, self._now_ms)
            self.view.heard(said, self._now_ms, self._now_ms)
        else:
            ours = said.incarnation == self.own.incarnation
            self._namesake, self.registered = (None, said) if ours else (said, None)
            self.tick(now_ms)

    def deleted(self, key: str, now_ms: int) -> None:
        """An entry's lease ended, or its node said goodbye."""
        self._now_ms = max(now_ms, self._now_ms)
        kind, _, rest = key.removeprefix(self.prefix).partition("/")
        words = rest.split("/")
        if not all(word.isdecimal() for word in words):
            return
        if kind == "nodes" and int(words[0]) in self._registered:
            node = int(words[0])
            del self._registered[node]
            if node in self.view.records:
                self.view.event(node, Event.LEFT, "its registration ended", self._now_ms)
        elif key == self.own_key:
            self._namesake = self.registered = None
        elif kind == "claims" and len(words) == 2:
            self._claims.get(int(words[0]), {}).pop(int(words[1]), None)

    def kept(self, asked_ms: int, now_ms: int) -> None:
        """etcd has renewed our lease, asked at `asked_ms`."""
        self.tick(now_ms)
        self._kept_ms, self._away = max(self._kept_ms or 0, asked_ms), ""

    def lost(self, reason: str, now_ms: int) -> None:
        """etcd cannot be reached, or we are not registered there (any more). What is known of others stays."""
        self.tick(now_ms)
        self._away = reason

    def gone(self, reason: str, now_ms: int) -> None:
        """Our registration is not there any more, for sure."""
        self.lost(reason, now_ms)
        self._kept_ms = None

    def tick(self, now_ms: int) -> None:
        """Lets time pass: claims end or go on, those who answer steadily are used, those who did not come back are dead."""
        self._now_ms = max(now_ms, self._now_ms)
        for node in self._claims:
            self._claim(node)
        if self._namesake is not None:
            self.view.claimed(self._namesake, self._now_ms)
        self.view.settle(self._now_ms)
        for node, since_ms in list(self._missing.items()):
            if self._now_ms - since_ms >= self.timing.death_ms:
                del self._missing[node]
                if node not in self.view.records:
                    continue
                self.view.event(
                    node, Event.SILENT, f"did not register again in {self.timing.death_ms} ms", self._now_ms
                )
        for node, said in self._registered.items():
            record = self.view.records.get(node) or self.view.add(node, said.address, self._now_ms)
            if record.state in (State.DOWN, State.UNKNOWN):
                self.view.heard(said, self._now_ms, self._now_ms)

    def members(self) -> list[Member]:
        """Every other node that was ever registered, by id."""
        return self.view.members()

    def changes(self) -> list[Change]:
        """Since this was last asked for."""
        return self.view.changes()

    def quorum(self) -> Quorum:
        """Held while our own lease is: etcd's majority decides who is in, so there is nothing to count."""
        records = self.view.records.values()
        heard, size = 1 + sum(record.state != State.DOWN for record in records), 1 + len(records)
        if self.view.own_rival is not None:
            reason = (
                f"{self.view.own_rival.address} claims this node's id {self.own.id}; give one of them an id of its own"
            )
            return Quorum(False, heard, size, reason)
        if self._kept_ms is None:
            return Quorum(False, heard, size, self._away)
        age_ms = self._now_ms - self._kept_ms
        if age_ms > lease_s(self.timing) * 1000:
            return Quorum(False, heard, size, f"no lease for {age_ms} ms: {self._away or 'etcd does not answer'}")
        return Quorum(True, heard, size, "registered with etcd")

    def next_ms(self) -> int:
        """A heartbeat away."""
        return self._now_ms + self.timing.heartbeat_ms

    def _claim(self, node: int) -> None:
        for incarnation, address in self._claims[node].items():
            said = Announcement(node, address, incarnation)
            record = self.view.records.get(node)
            known = self.own.incarnation if node == self.own.id else record and record.incarnation
            if known is not None and known != incarnation:
                self.view.claimed(said, self._now_ms)

    def _has_left(self, said: Announcement) -> bool:
        if said.id not in self._left:
            return False
        life = self._left[said.id]
        return life is None or said.incarnation <= life

    def _is_node(self, key: str, said: Announcement) -> bool:
        return key == f"{self.nodes_prefix}{said.id}" and said.id > 0

    def _is_claim(self, key: str, said: Announcement) -> bool:
        return key == f"{self.claims_prefix}{said.id}/{said.incarnation}" and said.id > 0
