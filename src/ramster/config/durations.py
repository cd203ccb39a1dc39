"""Times as people write them, like 30m, to seconds. Not: which times make sense where."""

from __future__ import annotations

from ramster.errors import UsageError

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str, *, of: str, most_s: int, most: str) -> int:
    """`30m` to 1800. Raises UsageError naming `of` for what is no time, and beyond `most_s`, with `most` as what there may be."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit()) or unit not in _UNITS_S or int(number) == 0:
        raise UsageError(f"{of}: {text!r} is no time; write a number with s, m, h or d, like 30m or 1h")
    found = int(number) * _UNITS_S[unit]
    if found > most_s:
        raise UsageError(f"{of}: {text} is too long; {most}")
    return found
