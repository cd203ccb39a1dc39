"""One JSON object a line. Covers encoding, decoding with a limit, and one question with its answer. Not: what messages
mean (`node`).

What comes in is untrusted: an overlong line, no JSON or no object is a RefusedError, and ends that connection and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

from ramster.errors import RefusedError

# A status with thousands of clients fits; the engine takes no longer line either.
MAX_LINE_BYTES = 1 << 20


def encode(message: dict[str, Any]) -> bytes:
    """`message` as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The message in `line`. Raises RefusedError for anything that is not an object."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise RefusedError("a line that is not JSON") from None
    if not isinstance(message, dict):
        raise RefusedError("a line that is not a JSON object")
    return message


async def receive(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message, or None at the end. The reader's limit must be MAX_LINE_BYTES."""
    try:
        line = await reader.readline()
    except ValueError:
        raise RefusedError(f"a line longer than {MAX_LINE_BYTES} bytes") from None
    if not line.endswith(b"\n"):
        return None
    return decode(line)


def ask(path: str, message: dict[str, Any], *, deadline_ms: int) -> dict[str, Any]:
    """Sends `message` to the socket at `path` and returns the answer.

    Raises OSError when nobody listens or the deadline passes, RefusedError when the answer is no message.
    """
    end = time.monotonic() + deadline_ms / 1000
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(deadline_ms / 1000)
        link.connect(path)
        link.sendall(encode(message))
        answer = b""
        while not answer.endswith(b"\n"):
            link.settimeout(max(end - time.monotonic(), 0.001))
            part = link.recv(65536)
            answer += part
            if not part or len(answer) > MAX_LINE_BYTES:
                raise RefusedError("the answer ended too early" if not part else "the answer is too long")
    return decode(answer)
