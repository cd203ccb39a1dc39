"""The TOML file: `[node]`, `[cluster]`, `[[peers]]` and `[run]`, read and checked. Every error names file, line and cure.

Not: what the figures lead to; the file that `ramster init` writes (`template`). `[node]`, `[cluster]` and `[[peers]]` are for
`ramster node`, `[[peers]]` and `[run]` for `ramster run --config`.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field
from typing import Any

from ramster.config import addresses, cluster, lines, places, sizes
from ramster.errors import ConfigError, RamsterError

# What each key must be, and what to write when it is not.
NODE_KEYS: dict[str, tuple[type, str]] = {
    "id": (int, "a whole number from 1 that no other node has, like 1"),
    "listen": (str, 'an address, like "127.0.0.1:7946"'),
    "offer": (str, 'a size, like "2G" or "25%"'),
    "socket": (str, 'a path, like "/run/ramster/node.sock"'),
    "control": (str, 'an address, like "127.0.0.1:7947"'),
    "metrics": (str, 'an address of this machine alone, like "127.0.0.1:9146"'),
}
OPTIONAL = ("control", "metrics")
PEER_KEYS: dict[str, tuple[type, str]] = {
    "id": NODE_KEYS["id"],
    "address": (str, 'an address, like "127.0.0.1:7947"'),
}
RUN_KEYS: dict[str, tuple[type, str]] = {
    "local": (str, 'a size, like "1G", or "auto"'),
    "resident": (str, 'a size, like "512M"'),
    "spill": (str, "a directory"),
    "durability": (str, '"auto", "none", "disk", "copies=2" or "ec=2+1"'),
    "malloc": (str, '"auto" or "system"'),
    "node": (str, "the path of a node's socket"),
}
TABLES: dict[str, dict[str, tuple[type, str]]] = {
    "node": NODE_KEYS,
    "cluster": cluster.KEYS,
    "peers": PEER_KEYS,
    "run": RUN_KEYS,
}


@dataclass(frozen=True)
class NodeTable:
    """`[node]`: who this node is, where it listens, how many bytes of RAM it lends, its admin socket, its control port
    and where Prometheus may ask."""

    id: int
    listen: str
    offer_bytes: int
    socket: str
    control: str | None = None
    metrics: str | None = None


@dataclass(frozen=True)
class PeerEntry:
    """One of `[[peers]]`: another node and where it listens."""

    id: int
    address: str


@dataclass(frozen=True)
class File:
    """A whole file. `run` holds the strings of `[run]`, named as the flags of `ramster run`."""

    path: str
    node: NodeTable | None = None
    peers: tuple[PeerEntry, ...] = ()
    run: dict[str, str] = field(default_factory=dict)
    cluster: cluster.ClusterTable = field(default_factory=cluster.ClusterTable)


def read(path: str, *, ram_bytes: int) -> File:
    """Reads and checks `path`; percentages are of `ram_bytes`. Raises ConfigError."""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; write it as a TOML file") from None
    return parse(text, path=path, ram_bytes=ram_bytes)


def parse(text: str, *, path: str, ram_bytes: int) -> File:
    """The same from a text that is already read."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax(path, text, str(error)) from None
    check = _Check(path, text)
    check.keys("", data, TABLES)
    table = cluster.read(check, check.table("cluster", data.get("cluster", {}), cluster.KEYS))
    node = None
    if "node" in data:
        found = check.table("node", data["node"], NODE_KEYS)
        node = _node(check, found, ram_bytes, certified=table.dir is not None)
    peers = _peers(check, data.get("peers", []))
    run: dict[str, str] = {}
    if "run" in data:
        run = dict(check.table("run", data["run"], RUN_KEYS))
    return File(path, node, peers, run, table)


@dataclass(frozen=True)
class _Check:
    path: str
    text: str

    def error(self, message: str, table: str, key: str | None = None, index: int = 0) -> ConfigError:
        line = lines.line_of(self.text, table, key, index)
        return ConfigError(f"{self.path}:{line}: {message}" if line else f"{self.path}: {message}")

    def keys(self, table: str, found: dict[str, Any], known: dict[str, Any], index: int = 0) -> None:
        for key in found:
            if key in known:
                continue
            near = difflib.get_close_matches(key, known, n=1)
            cure = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            where = f"[{table}]" if table else "the file"
            raise self.error(
                f"unknown key {key!r} in {where}; {cure}", table if table else key, key if table else None, index
            )

    def table(self, name: str, found: Any, known: dict[str, tuple[type, str]], index: int = 0) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise self.error(f"{name} must be a table; write [{name}] on a line of its own", "", name)
        self.keys(name, found, known, index)
        for key, value in found.items():
            kind, cure = known[key]
            if type(value) is not kind:
                raise self.error(f"{name}.{key} must be {cure}, not {value!r}", name, key, index)
        return found

    def need(self, table: str, found: dict[str, Any], known: dict[str, tuple[type, str]], index: int = 0) -> None:
        for key, (_, cure) in known.items():
            if key not in found:
                raise self.error(f"{key!r} is missing in [{table}]; add {key} = {cure}", table, None, index)


def _node(check: _Check, found: dict[str, Any], ram_bytes: int, *, certified: bool) -> NodeTable:
    found = {"socket": places.default_socket(), **found}
    check.need("node", found, {key: NODE_KEYS[key] for key in NODE_KEYS if key not in OPTIONAL})
    if not 1 <= found["id"] < 1 << 63:
        raise check.error(f"node.id must be {NODE_KEYS['id'][1]}, not {found['id']}", "node", "id")
    try:
        offer_bytes = sizes.parse(found["offer"], of="node.offer", ram_bytes=ram_bytes)
    except RamsterError as error:
        raise check.error(str(error), "node", "offer") from None
    _listens(check, found["listen"], "listen", certified=certified)
    control = found.get("control")
    if control is not None:
        if not certified:
            cure = "add [cluster] with dir, or let `ramster init` write the file"
            raise check.error(f"node.control needs certificates; {cure}", "node", "control")
        _listens(check, control, "control", certified=True)
    if not found["socket"]:
        raise check.error(f"node.socket must be {NODE_KEYS['socket'][1]}", "node", "socket")
    metrics = found.get("metrics")
    if metrics is not None:
        _metrics(check, metrics)
    return NodeTable(found["id"], found["listen"], offer_bytes, found["socket"], control, metrics)


def _metrics(check: _Check, text: str) -> None:
    """Loopback alone: there is no certificate on it, and who reads it learns what programs run."""
    try:
        host, port = addresses.split(text, of="node.metrics")
    except RamsterError as error:
        raise check.error(str(error), "node", "metrics") from None
    if not addresses.is_loopback(host):
        cure = 'write "127.0.0.1:9146", and let something with TLS on this machine pass it on'
        raise check.error(f"node.metrics: {host} can be reached from other machines; {cure}", "node", "metrics")
    if port == 0:
        raise check.error("node.metrics: port 0 is found by nobody; write a port, like 9146", "node", "metrics")


def _listens(check: _Check, text: str, key: str, *, certified: bool) -> None:
    """An address to listen on: a loopback one, or with certificates any that others can be told."""
    try:
        host, _ = addresses.split(text, of=f"node.{key}")
    except RamsterError as error:
        raise check.error(str(error), "node", key) from None
    if addresses.is_loopback(host):
        return
    if not certified:
        cure = "without certificates write 127.0.0.1 or [::1]; `ramster init` makes certificates"
        raise check.error(f"node.{key}: {host} can be reached from other machines; {cure}", "node", key)
    if not addresses.is_one_machine(host):
        cure = "write the numeric address of this machine that the other nodes reach it by"
        raise check.error(f"node.{key}: {host} is no address that others can be told; {cure}", "node", key)


def _peers(check: _Check, found: Any) -> tuple[PeerEntry, ...]:
    if not isinstance(found, list):
        raise check.error("peers must be an array of tables; write [[peers]]", "peers")
    peers = []
    for index, entry in enumerate(found):
        table = check.table("peers", entry, PEER_KEYS, index)
        check.need("peers", table, PEER_KEYS, index)
        if not 1 <= table["id"] < 1 << 63:
            raise check.error(f"peers.id must be {PEER_KEYS['id'][1]}, not {table['id']}", "peers", "id", index)
        try:
            addresses.split(table["address"], of="peers.address")
        except RamsterError as error:
            raise check.error(str(error), "peers", "address", index) from None
        peers.append(PeerEntry(table["id"], table["address"]))
    return tuple(peers)


def _syntax(path: str, text: str, message: str) -> ConfigError:
    """tomllib ends its message with `(at line N, column M)` or `(at end of document)`; the line goes to the front."""
    what, _, place = message.rpartition(" (at ")
    words = place.rstrip(")").replace(",", "").split()
    line = words[1] if len(words) > 1 and words[0] == "line" else str(max(len(text.splitlines()), 1))
    return ConfigError(f"{path}:{line}: is not TOML: {what or message}")
