"""One question to a node's control port, with its answer: a JSON line each way over TLS 1.3. Not: what is said (`node`)."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import Any

from ramster.errors import RefusedError
from ramster.transport import lines


async def ask(
    host: str, port: int, message: dict[str, Any], *, context: ssl.SSLContext, name: str | None, deadline_ms: int
) -> dict[str, Any]:
    """Asks the node at `host`:`port`, which must have a certificate for `name` (None: whatever `context` takes).

    Raises OSError when nobody answers in time (TimeoutError) or the other side is not who it must be (ssl.SSLError),
    RefusedError when it says no or what it says is no answer.
    """
    async with asyncio.timeout(deadline_ms / 1000):
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=name or "", limit=lines.MAX_LINE_BYTES
        )
        try:
            writer.write(lines.encode(message))
            await writer.drain()
            answer = await lines.receive(reader)
        finally:
            # Nothing is lost by it: the one answer has come, or nobody waits for it any more.
            writer.transport.abort()
    if answer is None:
        raise RefusedError("it ended the connection without an answer")
    if answer.get("type") == "refused":
        raise RefusedError(_line(answer.get("reason")))
    return answer


def why(error: Exception) -> str:
    """An error of `ask` in some words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no TLS").lower().replace("_", " ")
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno).lower()
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _line(reason: object) -> str:
    """Somebody else's words, safe for a terminal: one line, nothing but printable characters, not too long."""
    return "".join(letter for letter in str(reason)[:300] if letter.isprintable()) or "no reason given"
