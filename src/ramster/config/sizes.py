"""Sizes as people write them (`512M`, `8G`, `50%`) to bytes, and back. Pure; not: where the RAM figure comes from."""

from __future__ import annotations

from ramster.errors import ConfigError

# Binary units, as in `sort -S` and systemd: 1K is 1024 bytes.
UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
PAGE_BYTES = 4096


def parse(text: str, *, of: str, ram_bytes: int) -> int:
    """The bytes that `text` means; a percentage is of `ram_bytes`. `of` names the flag or key in the error.

    Raises ConfigError for anything else, for zero and for what rounds to less than one page of 4096 bytes.
    """
    raw = text.strip()
    upper = raw.upper()
    if upper.endswith("%"):
        number, factor = upper[:-1], ram_bytes / 100
    else:
        digits = upper.removesuffix("IB") if upper.endswith("IB") else upper
        number = digits.rstrip("BKMGT")
        unit = digits[len(number) :]
        if len(unit) == 2 and unit.endswith("B"):
            unit = unit[0]
        if unit not in UNITS:
            raise _bad(text, of)
        factor = UNITS[unit]
    if not _is_number(number):
        raise _bad(text, of)
    size_bytes = int(float(number) * factor)
    if upper.endswith("%") and float(number) > 100:
        raise ConfigError(f"{of}: {raw!r} is more than all of the RAM; write 1% to 100%, or a size like 512M or 8G")
    if size_bytes < PAGE_BYTES:
        raise ConfigError(f"{of}: {raw!r} is less than one page of 4096 bytes; write a size like 512M, 8G or 50%")
    if size_bytes >= 1 << 62:
        raise ConfigError(f"{of}: {raw!r} is more than any machine has; write a size like 512M, 8G or 50%")
    return size_bytes // PAGE_BYTES * PAGE_BYTES


def _is_number(text: str) -> bool:
    whole, dot, part = text.strip().partition(".")
    return (whole.isascii() and whole.isdigit()) and (not dot or (part.isascii() and part.isdigit()))


def _bad(text: str, of: str) -> ConfigError:
    return ConfigError(
        f"{of}: {text!r} is not a size; write a number with K, M, G or T, or a percentage, like 512M, 8G or 50%"
    )


def show(size_bytes: float) -> str:
    """`size_bytes` for people: `1.5 GiB`."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    digits = 0 if unit == "B" or value >= 100 else 1
    return f"{value:.{digits}f}".removesuffix(".0") + f" {unit}"
