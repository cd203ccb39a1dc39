"""What every back end of membership is: plain data in, plain data out. Covers the words, the table of a member's states
and the interface.

Not: how a back end learns what it knows (`static`, `registry`), the bookkeeping that both share (`view`), or sockets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class State(StrEnum):
    """What a node believes of another one. docs/membership.md has the table."""

    UNKNOWN = "unknown"
    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"


class Event(StrEnum):
    """What can happen to a member, as its observer sees it."""

    ANSWERED = "answered"
    HELD = "held"
    MISSED = "missed"
    SILENT = "silent"
    REFUSED = "refused"
    LEFT = "left"
    CLAIMED = "claimed"


# What is not here is forbidden: it is a defect of ours and ends the process with the member's story. A test compares
# this with docs/membership.md.
TABLE: dict[tuple[State, Event], State] = {
    (State.UNKNOWN, Event.ANSWERED): State.UP,
    (State.UNKNOWN, Event.HELD): State.DOWN,
    (State.UNKNOWN, Event.MISSED): State.UNKNOWN,
    (State.UNKNOWN, Event.SILENT): State.DOWN,
    (State.UNKNOWN, Event.REFUSED): State.DOWN,
    (State.UNKNOWN, Event.LEFT): State.DOWN,
    (State.UNKNOWN, Event.CLAIMED): State.DOWN,
    (State.UP, Event.ANSWERED): State.UP,
    (State.UP, Event.MISSED): State.SUSPECT,
    (State.UP, Event.SILENT): State.DOWN,
    (State.UP, Event.REFUSED): State.DOWN,
    (State.UP, Event.LEFT): State.DOWN,
    (State.UP, Event.CLAIMED): State.DOWN,
    (State.SUSPECT, Event.ANSWERED): State.UP,
    (State.SUSPECT, Event.MISSED): State.SUSPECT,
    (State.SUSPECT, Event.SILENT): State.DOWN,
    (State.SUSPECT, Event.REFUSED): State.DOWN,
    (State.SUSPECT, Event.LEFT): State.DOWN,
    (State.SUSPECT, Event.CLAIMED): State.DOWN,
    (State.DOWN, Event.ANSWERED): State.UP,
    (State.DOWN, Event.HELD): State.DOWN,
    (State.DOWN, Event.MISSED): State.DOWN,
    (State.DOWN, Event.SILENT): State.DOWN,
    (State.DOWN, Event.REFUSED): State.DOWN,
    (State.DOWN, Event.LEFT): State.DOWN,
    (State.DOWN, Event.CLAIMED): State.DOWN,
}

# Death is noticed within this time. Five heartbeats: one may be lost and one be slow without anybody being called dead,
# and a fault that waits for a dead holder waits no longer than people bear. Doubled, it waits twice as long.
DEATH_MS = 5000


@dataclass(frozen=True)
class Timing:
    """All that follows from the one time that users set."""

    death_ms: int = DEATH_MS

    @property
    def heartbeat_ms(self) -> int:
        """How often each member is asked, or a lease renewed."""
        return self.death_ms // 5

    @property
    def ask_ms(self) -> int:
        """A question without an answer for this long is a miss. Two of the slowest answers still fit into `death_ms`."""
        return self.death_ms * 2 // 5

    @property
    def suspended_ms(self) -> int:
        """Two rounds of ours that are further apart than this: we did not run, so nobody's silence counts."""
        return self.death_ms // 2

    @property
    def hold_most_ms(self) -> int:
        """The longest that a flapping member must answer steadily before it is used again."""
        return self.death_ms * 2

    @property
    def flap_memory_ms(self) -> int:
        """Up for this long, one death is forgotten."""
        return self.death_ms * 10


@dataclass(frozen=True)
class Announcement:
    """What a node says of itself. A later incarnation is a later life: what the earlier one held is gone."""

    id: int
    address: str
    incarnation: int
    offered_bytes: int = 0
    free_bytes: int = 0


@dataclass(frozen=True)
class Member:
    """One node, as another one sees it. `heard_ms`: when the question that it answered last was asked."""

    id: int
    address: str
    state: State = State.UNKNOWN
    incarnation: int | None = None
    offered_bytes: int = 0
    free_bytes: int = 0
    heard_ms: int | None = None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As `ramster status --json` prints it."""
        return {
            "id": self.id,
            "address": self.address,
            "state": str(self.state),
            "incarnation": self.incarnation,
            "offered_bytes": self.offered_bytes,
            "foreign_bytes": max(self.offered_bytes - self.free_bytes, 0),
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Change:
    """What became of a member since the changes were last asked for; several of one member are one.

    `reborn`: it is another life than before, whose pages are gone.
    """

    id: int
    before: State
    after: State
    reborn: bool = False
    moved: bool = False
    reason: str = ""

    @property
    def matters(self) -> bool:
        """Whether clients must be told: suspicion alone changes nothing for them."""
        used = (self.before != State.DOWN) != (self.after != State.DOWN)
        return used or self.reborn or self.moved or (self.before == State.UNKNOWN and self.after == State.UP)


@dataclass(frozen=True)
class Quorum:
    """Whether this node may lend and remotify, how many of the cluster it hears, itself included, and why."""

    held: bool
    heard: int
    size: int
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """As `ramster status --json` prints it."""
        return {"held": self.held, "heard": self.heard, "size": self.size, "reason": self.reason}


class Membership(Protocol):
    """What policy, the daemon and the contract suite know of a back end. Time comes from the caller, in monotonic ms."""

    def announce(self, own: Announcement) -> None:
        """What this node says of itself from now on."""

    def tick(self, now_ms: int) -> None:
        """Lets time pass. Call it at least every `heartbeat_ms`, or the node takes itself for suspended."""

    def forget(self, node: int, life: int | None) -> None:
        """The node left for good: it no longer counts, unless it comes back in a later life than `life` (None: in no life)."""

    def members(self) -> list[Member]:
        """Every other node that is known, by id."""

    def changes(self) -> list[Change]:
        """What has changed since this was last asked for."""

    def quorum(self) -> Quorum:
        """As of the last tick."""

    def next_ms(self) -> int:
        """When `tick` has something to do, at the latest."""


def used(members: Iterable[Member]) -> list[Member]:
    """Those whose pages can be reached: all that are not known to be down."""
    return [member for member in members if member.state != State.DOWN]


def view(members: Iterable[Member]) -> list[dict[str, Any]]:
    """What clients are told of them."""
    return [{"node": member.id, "address": member.address} for member in used(members)]
