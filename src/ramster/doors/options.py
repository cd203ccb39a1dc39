"""From what a user gives (flags, `[run]` of a file, arguments of `configure`) to the engine's options, checked.

Not: the options' meaning, which is the engine's; how much `auto` is, which is `policy.split`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from ramster.config import addresses, durability, machine, places, sizes
from ramster.errors import ConfigError
from ramster.policy import split


@dataclass(frozen=True)
class Wishes:
    """What the user wrote, as text, None where nothing was. `prefix` makes a key's name in errors: `--` or ``."""

    local: str | None = None
    resident: str | None = None
    peers: str | None = None
    spill: str | None = None
    durability: str | None = None
    malloc: str | None = None
    node: str | None = None
    config: str | None = None
    prefix: str = "--"


def build(wishes: Wishes, *, program: str) -> dict[str, Any]:
    """The options as the engine reads them. Raises ConfigError that names the flag."""
    memory = machine.memory()
    peers: list[dict[str, Any]] = []
    own_node = 0
    if wishes.config is not None:
        from ramster.config import file  # tomllib is for those who have a file

        found = file.read(wishes.config, ram_bytes=memory.ram_bytes)
        peers = [
            {"node": peer.id, "address": addresses.numeric(peer.address, of=f"{found.path}: peers.address")}
            for peer in found.peers
        ]
        own_node = found.node.id if found.node else 0
        # A flag wins over the file.
        wishes = replace(wishes, **{key: value for key, value in found.run.items() if getattr(wishes, key) is None})
    if wishes.peers is not None:
        peers = _peers(wishes.peers, wishes.prefix + "peers")
    part = _split(wishes, memory)
    options: dict[str, Any] = {"local_bytes": part.local_bytes, "peers": peers, "program": program, "node": own_node}
    if part.resident_bytes is not None:
        options["resident_bytes"] = part.resident_bytes
    if wishes.spill is not None:
        options["spill_dir"] = _directory(wishes.spill, wishes.prefix + "spill")
    options["durability"] = _durability(wishes)
    if wishes.malloc is not None:
        if wishes.malloc not in ("auto", "system"):
            raise ConfigError(f"{wishes.prefix}malloc: {wishes.malloc!r} is not known; write auto or system")
        options["malloc"] = wishes.malloc
    if wishes.node is not None:
        options["node_socket"] = _socket(wishes.node, wishes.prefix + "node")
    elif os.path.exists(places.default_socket()):
        # Its absence later harms nothing, so a node that is gone but left its socket is no error.
        options["node_socket"] = places.default_socket()
    return options


def _split(wishes: Wishes, memory: machine.Memory) -> split.Split:
    resident = None
    if wishes.resident is not None:
        resident = sizes.parse(wishes.resident, of=wishes.prefix + "resident", ram_bytes=memory.ram_bytes)
    if wishes.local is None or wishes.local == "auto":
        part = split.auto(memory.room_bytes)
        return replace(part, resident_bytes=min(resident, part.local_bytes)) if resident else part
    local = sizes.parse(wishes.local, of=wishes.prefix + "local", ram_bytes=memory.ram_bytes)
    if resident is not None and resident > local:
        raise ConfigError(
            f"{wishes.prefix}resident: {wishes.resident} is more than {wishes.prefix}local {wishes.local}, "
            "of which it is a part; write less"
        )
    return split.fixed(local, resident)


def _peers(text: str, of: str) -> list[dict[str, Any]]:
    """Peers given by address have no configured id: they are numbered here, and the handshake tells who they are."""
    found = [part for part in text.split(",") if part.strip()]
    if not found:
        raise ConfigError(f"{of}: no address in {text!r}; write host:port, or several with commas between")
    return [{"node": index, "address": addresses.numeric(part, of=of)} for index, part in enumerate(found, start=1)]


def _durability(wishes: Wishes) -> durability.Durability:
    of, spill = wishes.prefix + "durability", wishes.prefix + "spill"
    return durable(wishes.durability or "auto", of=of, spill=spill, has_spill=wishes.spill is not None)


def durable(text: str, *, of: str, spill: str, has_spill: bool) -> durability.Durability:
    """As the engine reads it. Raises ConfigError that begins with `of` and names `spill`, where a directory is said."""
    found = durability.parse(text, of=of)
    if found == "disk" and not has_spill:
        raise ConfigError(f"{of}: disk needs a directory; name it with {spill}")
    return found


def _directory(path: str, of: str) -> str:
    if not os.path.isdir(path):
        raise ConfigError(f"{of}: {path} is not a directory; make it first: mkdir -p {path}")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"{of}: {path} is not writable by this user; name a directory that is")
    return os.path.abspath(path)


def _socket(path: str, of: str) -> str:
    import stat

    try:
        mode = os.stat(path).st_mode
    except OSError:
        raise ConfigError(f"{of}: {path} does not exist; start the node first: ramster node --config FILE") from None
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{of}: {path} is not a socket; write the path that [node] socket names in the node's file")
    return os.path.abspath(path)
