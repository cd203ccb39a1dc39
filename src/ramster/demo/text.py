"""Collects real text of this machine: documentation, Python sources and C headers, as records for `sort -z`.

A record is some neighbouring paragraphs, RECORD_BYTES or a little more. Only plain files that anybody may read are
taken; bounded in bytes and time.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

FOLDERS = ("/usr/share/doc", "/usr/include", "/usr/lib/python3", "/usr/lib", "/usr/share", "/usr/local", sys.prefix)
ENDINGS = (
    ".c",
    ".cc",
    ".css",
    ".h",
    ".hpp",
    ".html",
    ".js",
    ".json",
    ".md",
    ".pl",
    ".pm",
    ".po",
    ".py",
    ".pyi",
    ".rs",
    ".rst",
    ".txt",
    ".xml",
)
# A larger file is data rather than text, and would crowd out the rest.
FILE_BYTES_MAX = 4 << 20
# The shorter the records, the more often `sort` visits every page: this is what makes a run last.
RECORD_BYTES = 2048


@dataclass(frozen=True)
class Collected:
    """What was found: bytes and records written, files read, and whether the machine had less than was wanted."""

    data_bytes: int
    records: int
    files: int
    wanted_bytes: int

    @property
    def short(self) -> bool:
        """Whether less was found than was wanted."""
        return self.data_bytes < self.wanted_bytes * 95 // 100


def collect(path: str, wanted_bytes: int, deadline_s: float) -> Collected:
    """Writes up to `wanted_bytes` to `path` within `deadline_s` seconds."""
    end = time.monotonic() + deadline_s
    data_bytes = records = files = 0
    with open(path, "wb", buffering=1 << 20) as out:
        for content in _contents():
            files += 1
            for record in cut(content):
                if data_bytes + len(record) > wanted_bytes:
                    return Collected(data_bytes, records, files, wanted_bytes)
                out.write(record)
                data_bytes += len(record)
                records += 1
            if time.monotonic() > end:
                break
    return Collected(data_bytes, records, files, wanted_bytes)


def cut(content: bytes) -> Iterator[bytes]:
    """`content` as records that end in NUL, cut at empty lines where there are any."""
    start = 0
    while start < len(content):
        end = content.find(b"\n\n", start + RECORD_BYTES, start + 2 * RECORD_BYTES)
        end = min(end if end >= 0 else start + 2 * RECORD_BYTES, len(content))
        record = content[start:end].strip(b"\n")
        if record:
            yield record + b"\0"
        start = end


def _contents() -> Iterator[bytes]:
    seen: set[tuple[int, int]] = set()
    for folder in FOLDERS:
        for place, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                if name.endswith(ENDINGS):
                    content = _read(os.path.join(place, name), seen)
                    if content:
                        yield content


def _read(path: str, seen: set[tuple[int, int]]) -> bytes | None:
    try:
        facts = os.lstat(path)
        # Group and others must be allowed to read it: nothing private gets into a demonstration.
        if not stat.S_ISREG(facts.st_mode) or not facts.st_mode & stat.S_IROTH or facts.st_size > FILE_BYTES_MAX:
            return None
        if (facts.st_dev, facts.st_ino) in seen:
            return None
        seen.add((facts.st_dev, facts.st_ino))
        with open(path, "rb") as stream:
            content = stream.read()
    except OSError:
        return None
    return None if b"\0" in content else content
