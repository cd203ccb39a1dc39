"""The nodes that introduced themselves, in memory and in `peers.json`, and who may say what about whom.

Not: whether they are up (`cluster`).

A node alone says where it is: its certificate names it. What others say about it is taken only while nothing is known, since a
member that lies must not be able to move others. Whoever is asked at an address must show that name's certificate anyway.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ramster.config import addresses
from ramster.errors import RamsterError, RefusedError
from ramster.security import files, names

log = logging.getLogger("ramster.cluster")

# Hundreds of nodes are planned for; a member that invents nodes must not fill memory or disk.
PEERS_MAX = 1024
# The longest numeric address with a port has 47 characters.
ADDRESS_MAX_CHARACTERS = 64


@dataclass(frozen=True)
class Peer:
    """Another node: where it keeps pages, and where its control port is. Both `IP:port`."""

    node: int
    listen: str
    control: str

    def plain(self) -> dict[str, Any]:
        """As it is written and said."""
        return asdict(self)


def read_peer(found: object) -> Peer:
    """The peer that somebody describes. Raises RefusedError for anything that is not a node's id with two addresses."""
    if not isinstance(found, dict):
        raise RefusedError("a peer that is no object")
    node = found.get("node")
    if type(node) is not int or not 1 <= node <= names.NODE_MAX:
        raise RefusedError("a peer without a node's id")
    return Peer(node, read_address(found.get("listen")), read_address(found.get("control")))


def read_address(text: object) -> str:
    """An `IP:port` that a node can be reached at. Raises RefusedError."""
    if isinstance(text, str) and len(text) <= ADDRESS_MAX_CHARACTERS:
        try:
            host, port = addresses.split(text, of="address")
        except RamsterError:
            host, port = "", 0
        if port and addresses.is_one_machine(host):
            return addresses.join(host, port)
    raise RefusedError("an address that is not a numeric one with its port")


class Peers:
    """All known peers of one node. Methods return whether anything changed; `save` writes it down."""

    def __init__(self, directory: files.Directory, own: int) -> None:
        """Raises ConfigError when the file is damaged."""
        self._directory = directory
        self._own = own
        self._peers: dict[int, Peer] = {}
        for entry in directory.read_json(files.PEERS, default={}).get("peers", []):
            try:
                peer = read_peer(entry)
            except RefusedError as error:
                log.warning("%s: an entry is left out: %s", directory.file(files.PEERS), error)
                continue
            self._peers[peer.node] = peer

    def __iter__(self) -> Iterator[Peer]:
        return iter(list(self._peers.values()))

    def get(self, node: int) -> Peer | None:
        """The peer with this id."""
        return self._peers.get(node)

    def introduced(self, peer: Peer) -> bool:
        """The peer itself says so: what was known before is replaced. Raises RefusedError over PEERS_MAX."""
        if peer.node == self._own or self._peers.get(peer.node) == peer:
            return False
        if peer.node not in self._peers and len(self._peers) >= PEERS_MAX:
            raise RefusedError(f"{PEERS_MAX} peers are known already")
        self._peers[peer.node] = peer
        return True

    def heard_of(self, peer: Peer) -> bool:
        """Another node says so: only news about a node that nothing is known of."""
        if peer.node == self._own or peer.node in self._peers or len(self._peers) >= PEERS_MAX:
            return False
        self._peers[peer.node] = peer
        return True

    def forget(self, node: int) -> bool:
        """It left for good."""
        return self._peers.pop(node, None) is not None

    def plain(self) -> list[dict[str, Any]]:
        """All of them, as they are written and said."""
        return [peer.plain() for peer in self]

    def save(self) -> None:
        """Writes `peers.json`. Raises StartError."""
        save(self._directory, list(self))


def save(directory: files.Directory, peers: list[Peer]) -> None:
    """Writes `peers.json` into a directory. Raises StartError."""
    directory.write_json(files.PEERS, {"peers": [peer.plain() for peer in peers]})
