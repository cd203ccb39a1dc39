"""Which line of a TOML text a key stands on. tomllib gives values without lines, and an error without its line is no help.

Covers keys as people write them in our files: tables, arrays of tables, bare and quoted keys. Inline tables report
their own line.
"""

from __future__ import annotations

import re

_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY = re.compile(r"""^\s*("[^"]*"|'[^']*'|[A-Za-z0-9_-]+)\s*=""")


def line_of(text: str, table: str, key: str | None = None, index: int = 0) -> int | None:
    """The line (from 1) of `key` in `table` (of its header without `key`); `index` counts an array's tables. None: not found."""
    seen = -1
    here = table == ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(line)
        if header:
            name = header[2].replace('"', "").replace("'", "")
            if name == table:
                seen += 1
            here = name == table and (header[1] == "[" or seen == index)
            if here and key is None:
                return number
            continue
        found = _KEY.match(line)
        if found:
            name = found[1].strip("\"'")
            if here and name == key:
                return number
            # `peers = [...]` or `node = {...}` at the top: the table's own line is the best there is.
            if table != "" and seen < 0 and name == table:
                return number
    return None
