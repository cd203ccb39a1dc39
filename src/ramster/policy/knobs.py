"""What an operator may change while nodes and programs run (`ramster set`): names, values, and what follows for clients. Pure.

Not: keeping it over a restart. What is to stay belongs into the node's file and the programs' flags.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ramster.config import durability, sizes
from ramster.errors import ConfigError

SWITCH = {"on": True, "off": False}
CODECS = ("lz4", "zstd")
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Knobs:
    """None: as files and flags say."""

    remotify: bool = True
    codec: str | None = None
    remote_codec: str | None = None
    durability: str | None = None
    offer_bytes: int | None = None
    log: str | None = None

    def directives(self, found: dict[str, Any]) -> dict[str, Any]:
        """`found`, as the policy has it, with what the operator says. An `off` of either holds."""
        merged = {**found, "remotify": bool(found.get("remotify", True)) and self.remotify}
        if self.codec is not None:
            merged["codec"] = self.codec
        if self.remote_codec is not None:
            merged["remote_codec"] = self.remote_codec
        if self.durability is not None:
            merged["durability"] = durability.parse(self.durability, of="durability")
        return merged

    def as_dict(self) -> dict[str, str]:
        """Each key with its value as one would write it; `-` for what was not set."""
        return {
            "remotify": "on" if self.remotify else "off",
            "codec": self.codec or "-",
            "remote-codec": self.remote_codec or "-",
            "durability": self.durability or "-",
            "offer": "-" if self.offer_bytes is None else sizes.show(self.offer_bytes),
            "log": self.log or "-",
        }


def turn(knobs: Knobs, key: str, value: str, *, ram_bytes: int) -> Knobs:
    """With `key` set to `value`; percentages are of `ram_bytes`. Raises ConfigError with the cure."""
    setters: dict[str, Callable[[], Knobs]] = {
        "remotify": lambda: replace(knobs, remotify=SWITCH[_one_of(key, value, tuple(SWITCH))]),
        "codec": lambda: replace(knobs, codec=_one_of(key, value, CODECS)),
        "remote-codec": lambda: replace(knobs, remote_codec=_one_of(key, value, CODECS)),
        "durability": lambda: replace(knobs, durability=value) if durability.parse(value, of=key) else knobs,
        "offer": lambda: replace(knobs, offer_bytes=_offer(value, ram_bytes)),
        "log": lambda: replace(knobs, log=_one_of(key, value, LEVELS)),
    }
    if key not in setters:
        near = difflib.get_close_matches(key, setters, n=1)
        cure = f"did you mean {near[0]}?" if near else f"known are {', '.join(setters)}"
        raise ConfigError(f"set: unknown key {key!r}; {cure}")
    return setters[key]()


def _offer(value: str, ram_bytes: int) -> int:
    """0 lends nothing, and recalls what is lent."""
    return 0 if value == "0" else sizes.parse(value, of="offer", ram_bytes=ram_bytes)


def _one_of(key: str, value: str, words: tuple[str, ...]) -> str:
    if value not in words:
        raise ConfigError(f"{key}: {value!r} is not known; write {' or '.join(words)}")
    return value
