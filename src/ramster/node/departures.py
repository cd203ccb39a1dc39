"""Who left the cluster for good, and whose certificates are revoked: in memory and in `departed.json`, on every node.

Not: what follows from it (`cluster_side`), or going away itself (`leaving`).

A node alone says that it leaves: its certificate names it. That somebody is forgotten, and so revoked, only the node that signs
says. That one also passes on who left, for those who could not be reached then; its list has a number that grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ramster.errors import RefusedError
from ramster.node.peers import PEERS_MAX
from ramster.security import files, names

# A life is a clock's nanoseconds.
LIFE_MAX = (1 << 64) - 1


@dataclass(frozen=True)
class Departed:
    """A node that is no member any more. `life`: the one that it left in; None: it is revoked, whatever its life."""

    node: int
    life: int | None


class Departures:
    """The list of one node. Bounded: a cluster gives away PEERS_MAX ids, each once."""

    def __init__(self, directory: files.Directory, own: int, *, signs: bool) -> None:
        """`signs`: this node's list is the one with the number. Raises ConfigError when the file is damaged."""
        self._directory = directory
        self._own, self._signs = own, signs
        self.version = 0
        self.revoked: set[int] = set()
        self.left: dict[int, int] = {}
        found = directory.read_json(files.DEPARTED, default={})
        if found:
            try:
                self.version, self.revoked, self.left = _read(found)
            except RefusedError:
                # Without it a revoked node would be let in again: nobody guesses here.
                raise files.damaged(directory.file(files.DEPARTED)) from None

    def __contains__(self, node: int) -> bool:
        return node in self.revoked or node in self.left

    def lives(self) -> dict[int, int | None]:
        """Everybody who is gone, with the life that left; None: revoked."""
        return {**self.left, **dict.fromkeys(self.revoked)}

    def leave(self, node: int, life: int) -> bool:
        """The node itself says that it left, in that life; whether that is news."""
        if node == self._own or node in self or len(self.left) >= PEERS_MAX:
            return False
        self.left[node] = life
        self.version += self._signs
        return True

    def back(self, node: int) -> bool:
        """A node that left introduces itself again; whether it had left."""
        if self.left.pop(node, None) is None:
            return False
        self.version += self._signs
        return True

    def revoke(self, node: int) -> bool:
        """On the node that signs; whether that is news. Raises RefusedError when the list is full."""
        if node in self.revoked:
            return False
        if len(self.revoked) >= PEERS_MAX:
            raise RefusedError(f"{PEERS_MAX} nodes are revoked already; make a new cluster")
        self.revoked.add(node)
        self.left.pop(node, None)
        self.version += 1
        return True

    def hear(self, message: object) -> list[Departed]:
        """The list of the node that signs. Returns who is gone by it and was not before; an earlier list says nothing.

        Raises RefusedError for anything that is no list.
        """
        version, revoked, left = _read(message)
        if version <= self.version and not revoked - self.revoked:
            return []
        news = [Departed(node, None) for node in sorted(revoked - self.revoked - {self._own})]
        self.revoked |= revoked - {self._own}
        for node in self.revoked:
            self.left.pop(node, None)
        for node, life in left.items():
            if node != self._own and node not in self:
                self.left[node] = life
                news.append(Departed(node, life))
        self.version = max(version, self.version)
        return news

    def plain(self) -> dict[str, Any]:
        """As it is written and said."""
        left = [[node, life] for node, life in sorted(self.left.items())]
        return {"version": self.version, "revoked": sorted(self.revoked), "left": left}

    def save(self) -> None:
        """Writes `departed.json`. Raises StartError."""
        self._directory.write_json(files.DEPARTED, self.plain())


def _read(found: object) -> tuple[int, set[int], dict[int, int]]:
    if not isinstance(found, dict):
        raise RefusedError("a list of departed nodes that is no object")
    version, revoked, left = found.get("version"), found.get("revoked"), found.get("left")
    good = (
        _is_number(version, LIFE_MAX)
        and isinstance(revoked, list)
        and isinstance(left, list)
        and max(len(revoked), len(left)) <= PEERS_MAX
        and all(_is_number(node, names.NODE_MAX) for node in revoked)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in left)
        and all(_is_number(node, names.NODE_MAX) and _is_number(life, LIFE_MAX) for node, life in left)
    )
    if not good:
        raise RefusedError("a list of departed nodes that makes no sense")
    assert isinstance(version, int)
    assert isinstance(revoked, list)
    assert isinstance(left, list)
    return version, set(revoked), dict(left)


def _is_number(found: object, most: int) -> bool:
    return type(found) is int and 0 <= found <= most
