"""How a durability is written: `auto`, `none`, `disk`, `copies=2` or `ec=2+1`. Not: what it means, which is the engine's."""

from __future__ import annotations

import re

from ramster.errors import ConfigError

WORDS = ("auto", "none", "disk")
# An entry of the engine has room for that many.
COPIES_MAX = 3
# More would cost more messages and index entries than they save on pages of 4096 bytes.
SHARDS_MAX = 6

Durability = str | dict[str, int] | dict[str, list[int]]


def parse(text: str, *, of: str) -> Durability:
    """As the engine reads it: a word, `{"copies": K}`, or `{"ec": [K, M]}`. Raises ConfigError that begins with `of`."""
    if text in WORDS:
        return text
    word, _, count = text.partition("=")
    if word == "copies" and count in {str(copies) for copies in range(1, COPIES_MAX + 1)}:
        return {"copies": int(count)}
    if word == "ec":
        return {"ec": _code(count, text, of)}
    raise ConfigError(
        f"{of}: {text!r} is not known; write auto, none, disk, copies=1 to copies={COPIES_MAX}, or ec=2+1"
    )


def _code(count: str, text: str, of: str) -> list[int]:
    found = re.fullmatch(r"([0-9])\+([0-9])", count)
    data, parity = map(int, found.groups()) if found else (0, 0)
    if data < 2 or parity < 1 or data + parity > SHARDS_MAX:
        raise ConfigError(
            f"{of}: {text!r} is no code; write ec=K+M for K data and M parity shards, each on a node of its own, "
            f"with K from 2, M from 1 and {SHARDS_MAX} together at most, as in ec=2+1 or ec=4+2"
        )
    return [data, parity]
