"""How a durability is written: `auto`, `none`, `disk`, or `copies=2`. Not: what it means, which is the engine's."""

from __future__ import annotations

from ramster.errors import ConfigError

WORDS = ("auto", "none", "disk")
# An entry of the engine has room for that many.
COPIES_MAX = 3


def parse(text: str, *, of: str) -> str | dict[str, int]:
    """As the engine reads it: a word, or `{"copies": K}`. Raises ConfigError that begins with `of`."""
    if text in WORDS:
        return text
    word, _, count = text.partition("=")
    if word == "copies" and count in {str(copies) for copies in range(1, COPIES_MAX + 1)}:
        return {"copies": int(count)}
    raise ConfigError(f"{of}: {text!r} is not known; write auto, none, disk, or copies=1 to copies={COPIES_MAX}")
