"""The members as a file lists them, and what is known of each. Pure: answers come in with their time, the view goes out.

Not: how a peer is asked (`transport`), or what follows from its state (`policy`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ramster.errors import ConfigError


@dataclass(frozen=True)
class Member:
    """One node. `state` is `unknown` until it was asked, then `up` or `down`; bytes are its last answer."""

    id: int
    address: str
    state: str = "unknown"
    offered_bytes: int = 0
    foreign_bytes: int = 0
    heard_ms: int | None = None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As `ramster status --json` prints it."""
        return {
            "id": self.id,
            "address": self.address,
            "state": self.state,
            "offered_bytes": self.offered_bytes,
            "foreign_bytes": self.foreign_bytes,
            "reason": self.reason,
        }


class Members:
    """The peers of one node. Every method returns whether what clients must know has changed."""

    def __init__(self, own_id: int, peers: Iterable[tuple[int, str]], *, path: str) -> None:
        self._members: dict[int, Member] = {}
        for node, address in peers:
            if node == own_id:
                raise ConfigError(f"{path}: peer {node} has this node's own id; give every node an id of its own")
            if node in self._members:
                raise ConfigError(f"{path}: two peers have id {node}; give every node an id of its own")
            self._members[node] = Member(node, address)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def get(self, node: int) -> Member:
        """The peer with this id."""
        return self._members[node]

    def learn(self, node: int, address: str) -> bool:
        """A peer that is new, or has moved: it is to be asked there."""
        before = self._members.get(node)
        if before is not None and before.address == address:
            return False
        self._members[node] = Member(node, address)
        return True

    def heard(self, node: int, now_ms: int, *, offered_bytes: int, foreign_bytes: int) -> bool:
        """The peer answered."""
        before = self._members[node]
        after = replace(
            before, state="up", offered_bytes=offered_bytes, foreign_bytes=foreign_bytes, heard_ms=now_ms, reason=""
        )
        self._members[node] = after
        return before.state != "up"

    def missed(self, node: int, reason: str) -> bool:
        """The peer could not be asked, or answered as somebody else."""
        before = self._members[node]
        self._members[node] = replace(before, state="down", reason=reason)
        return before.state != "down"

    def view(self) -> list[dict[str, Any]]:
        """What clients are told: every peer that is not known to be down. One that comes back is in the next view."""
        return [{"node": member.id, "address": member.address} for member in self if member.state != "down"]

    def up_count(self) -> int:
        """How many peers answered last time."""
        return sum(member.state == "up" for member in self)
