"""What an operator may change while nodes and programs run (`ramster set`): names, values, and what follows for clients. Pure.

Not: keeping it over a restart. What is to stay belongs into the node's file and the programs' flags.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ramster.config import durability, sizes
from ramster.errors import ConfigError

SWITCH = {"on": True, "off": False}
CODECS = ("lz4", "zstd")
LEVELS = ("debug", "info", "warning", "error")
# Parts of a node that log under a name of their own; `log` alone is all of them.
SUBSYSTEMS = ("node", "clients", "membership", "cluster", "control", "certificates", "policy", "lending", "metrics")
# A cluster has not more nodes than this; a longer list is a mistake.
TARGETS_MAX = 1024
_ROOT = "ramster"


@dataclass(frozen=True)
class Knobs:
    """None: as files and flags say. `targets`: the nodes that new pages may go to, None for all that membership knows."""

    remotify: bool = True
    remotify_persistent: bool | None = None
    remotify_ephemeral: bool | None = None
    self_shrinking: bool = True
    targets: tuple[int, ...] | None = None
    codec: str | None = None
    remote_codec: str | None = None
    durability: str | None = None
    offer_bytes: int | None = None
    reserve_bytes: int | None = None
    log: str | None = None
    logs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def directives(self, found: dict[str, Any]) -> dict[str, Any]:
        """`found`, as the policy has it, with what the operator says. An `off` of either holds."""
        merged = {
            **found,
            "remotify": bool(found.get("remotify", True)) and self.remotify,
            "repatriate": bool(found.get("repatriate", True)) and self.self_shrinking,
        }
        # What nobody has set is not said: a program that runs since before an upgrade may not know the word.
        if self.remotify_persistent is not None:
            merged["remotify_persistent"] = self.remotify_persistent
        if self.remotify_ephemeral is not None:
            merged["remotify_ephemeral"] = self.remotify_ephemeral
        if self.codec is not None:
            merged["codec"] = self.codec
        if self.remote_codec is not None:
            merged["remote_codec"] = self.remote_codec
        if self.durability is not None:
            merged["durability"] = durability.parse(self.durability, of="durability")
        return merged

    def targeted(self, peers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of the peers that membership knows those that new pages may go to. The others keep what they hold."""
        return [peer for peer in peers if self.targets is None or peer["node"] in self.targets]

    def levels(self) -> dict[str, str]:
        """Logging's levels by the names of its loggers; subsystems that were not set go with `log`."""
        levels = {_ROOT: self.log.upper()} if self.log else {}
        return {**levels, **{f"{_ROOT}.{name}": level.upper() for name, level in self.logs.items()}}

    def as_dict(self) -> dict[str, str]:
        """Each key with its value as one would write it; `-` for what was not set."""
        shown = {key: "off" if value is False else "on" for key, value in (
            ("remotify", self.remotify), ("remotify-persistent", self.remotify_persistent),
            ("remotify-ephemeral", self.remotify_ephemeral), ("self-shrinking", self.self_shrinking),
        )}  # fmt: skip
        return {
            **shown,
            "targets": "auto" if self.targets is None else ",".join(map(str, self.targets)),
            "codec": self.codec or "-",
            "remote-codec": self.remote_codec or "-",
            "durability": self.durability or "-",
            "offer": _size(self.offer_bytes),
            "reserve": _size(self.reserve_bytes),
            "log": self.log or "-",
            **{f"log.{name}": self.logs.get(name, "-") for name in SUBSYSTEMS},
        }


def turn(knobs: Knobs, key: str, value: str, *, ram_bytes: int) -> Knobs:
    """With `key` set to `value`; percentages are of `ram_bytes`. Raises ConfigError with the cure."""

    def switch() -> bool:
        return SWITCH[_one_of(key, value, tuple(SWITCH))]

    def level(name: str) -> Callable[[], Knobs]:
        return lambda: replace(knobs, logs=MappingProxyType({**knobs.logs, name: _one_of(key, value, LEVELS)}))

    setters: dict[str, Callable[[], Knobs]] = {
        "remotify": lambda: replace(knobs, remotify=switch()),
        "remotify-persistent": lambda: replace(knobs, remotify_persistent=switch()),
        "remotify-ephemeral": lambda: replace(knobs, remotify_ephemeral=switch()),
        "self-shrinking": lambda: replace(knobs, self_shrinking=switch()),
        "targets": lambda: replace(knobs, targets=_targets(value)),
        "codec": lambda: replace(knobs, codec=_one_of(key, value, CODECS)),
        "remote-codec": lambda: replace(knobs, remote_codec=_one_of(key, value, CODECS)),
        "durability": lambda: replace(knobs, durability=value) if durability.parse(value, of=key) else knobs,
        "offer": lambda: replace(knobs, offer_bytes=_bytes(key, value, ram_bytes)),
        "reserve": lambda: replace(knobs, reserve_bytes=_bytes(key, value, ram_bytes)),
        "log": lambda: replace(knobs, log=_one_of(key, value, LEVELS)),
        **{f"log.{name}": level(name) for name in SUBSYSTEMS},
    }
    if key not in setters:
        near = difflib.get_close_matches(key, setters, n=1)
        cure = f"did you mean {near[0]}?" if near else f"known are {', '.join(setters)}"
        raise ConfigError(f"set: unknown key {key!r}; {cure}")
    return setters[key]()


def _bytes(key: str, value: str, ram_bytes: int) -> int:
    """An offer of 0 lends nothing, and recalls what is lent; a reserve of 0 keeps nothing back."""
    return 0 if value == "0" else sizes.parse(value, of=key, ram_bytes=ram_bytes)


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else sizes.show(size_bytes)


def _targets(value: str) -> tuple[int, ...] | None:
    if value == "auto":
        return None
    words = value.split(",")
    if len(words) > TARGETS_MAX or not all(
        word.isascii() and word.isdigit() and 0 < int(word) < 1 << 63 for word in words
    ):
        raise ConfigError(f"targets: {value!r} is no list of nodes; write ids with commas, like 2,5, or auto")
    return tuple(sorted({int(word) for word in words}))


def _one_of(key: str, value: str, words: tuple[str, ...]) -> str:
    if value not in words:
        raise ConfigError(f"{key}: {value!r} is not known; write {' or '.join(words)}")
    return value
