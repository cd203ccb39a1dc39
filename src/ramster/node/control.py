"""The control port: one question and one answer for each link, over TLS 1.3. Strangers can reach it: everything has a limit.

Covers accepting, who is on a link, lines, deadlines and counters. Not: what a question leads to (`admission`).

What a stranger can do with it: hold PER_SOURCE_MAX links of LINKS_MAX for LINK_DEADLINE_S, each with LINE_MAX_BYTES at most.
A link that comes when all are taken ends the oldest one of a stranger that waits for no answer; members' are never ended so.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ramster.config import addresses
from ramster.errors import RefusedError
from ramster.node.limits import Bucket
from ramster.security import names
from ramster.transport import lines

log = logging.getLogger("ramster.control")

# A cluster of hundreds asks a node far less at once; each costs at most some 300 KiB of buffers.
LINKS_MAX = 64
# One machine (or one address translation) cannot take all of them.
PER_SOURCE_MAX = 16
# A handshake takes two round trips, a question one more, and signing waits for a disk. A sender slower than this is no node.
HANDSHAKE_DEADLINE_S = 5.0
LINK_DEADLINE_S = 10.0
# A join with its two certificate requests takes 2 KiB.
LINE_MAX_BYTES = 16 << 10
# A handshake costs about a millisecond: strangers take a tenth of a core at most. Beyond it links wait in the kernel's queue.
ACCEPTS_PER_S = 100
ACCEPTS_BURST = 200
ACCEPT_PAUSE_S = 0.05
BACKLOG = 128

Answer = Callable[[dict[str, Any], int | None], Awaitable[dict[str, Any]]]


class EndLinkError(Exception):
    """This link is over without a word; `reason` is the counter's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(eq=False)
class _Link:
    source: str
    since_s: float
    task: asyncio.Task[None] | None = None
    # A member's, or one whose question is being answered: a token may have been spent for it.
    kept: bool = False
    crowded_out: bool = False
    # From then on its transport closes the socket.
    begun: bool = False


class ControlPort:
    """Listens from `open` to `close`. `context` is asked for each link, so that a rotation needs no new listener."""

    def __init__(self, context: Callable[[], ssl.SSLContext]) -> None:
        self._context = context
        self._links: set[_Link] = set()
        self._counts: collections.Counter[str] = collections.Counter()
        self._accepts = Bucket(ACCEPTS_PER_S, ACCEPTS_BURST)
        self._accepting: asyncio.Task[None] | None = None
        self.address = ""

    def open(self, host: str, port: int, answer: Answer) -> None:
        """`answer` gets each message with the node that its sender's certificate names (None: no certificate).

        Raises OSError when the port cannot be had.
        """
        self._answer = answer
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        self.address = addresses.join(*listener.getsockname()[:2])
        self._accepting = asyncio.create_task(self._accept(listener))

    async def close(self) -> None:
        """Ends the listener and every link."""
        tasks = [link.task for link in self._links if link.task is not None]
        if self._accepting is not None:
            tasks.append(self._accepting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stats(self) -> dict[str, int]:
        """Links now, and how often each thing happened."""
        return {"links": len(self._links), **dict(sorted(self._counts.items()))}

    def count(self, reason: str) -> None:
        """One more of these."""
        self._counts[reason] += 1

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                while not self._accepts.take(time.monotonic()):
                    self.count("accepts_paced")
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                try:
                    accepted, address = await loop.sock_accept(listener)
                except OSError:
                    # No descriptors left, or a link that was gone before it was taken.
                    self.count("accepts_failed")
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                    continue
                self._take(accepted, str(address[0]))

    def _take(self, accepted: socket.socket, source: str) -> None:
        self.count("links_accepted")
        if sum(link.source == source for link in self._links) >= PER_SOURCE_MAX and not self._make_room(source):
            self.count("links_refused_source")
            accepted.close()
            return
        if len(self._links) >= LINKS_MAX and not self._make_room(None):
            self.count("links_refused_full")
            accepted.close()
            return
        link = _Link(source, time.monotonic())
        self._links.add(link)
        link.task = asyncio.create_task(self._serve(link, accepted))
        link.task.add_done_callback(lambda _: self._over(link, accepted))

    def _over(self, link: _Link, accepted: socket.socket) -> None:
        self._links.discard(link)
        if not link.begun:  # ended before its first step, which nothing in it can notice
            accepted.close()

    def _make_room(self, source: str | None) -> bool:
        """Ends the oldest stranger's link (of `source`, if given); false when all are kept."""
        strangers = [link for link in self._links if not link.kept and source in (None, link.source)]
        if not strangers:
            return False
        oldest = min(strangers, key=lambda link: link.since_s)
        oldest.crowded_out = True
        self.count("ended_crowded_out")
        self._links.discard(oldest)
        if oldest.task is not None:
            oldest.task.cancel()
        return True

    async def _serve(self, link: _Link, accepted: socket.socket) -> None:
        """One link from its handshake to its end. Whatever comes in is somebody else's doing and ends this link alone."""
        transport: asyncio.BaseTransport | None = None
        link.begun = True
        try:
            async with asyncio.timeout(LINK_DEADLINE_S):
                reader, writer = await self._handshake(accepted)
                transport = writer.transport
                caller = self._caller(writer)
                link.kept = caller is not None
                message = await lines.receive(reader)
                if message is None:
                    raise EndLinkError("ended_silent")
                link.kept = True
                writer.write(lines.encode(await self._reply(message, caller)))
                link.kept = caller is not None
                await writer.drain()
                self.count("answered")
                # The other side ends the link once it has the answer; the deadline does otherwise.
                with contextlib.suppress(OSError):
                    await reader.read(1)
        except EndLinkError as error:
            self.count(error.reason)
        except RefusedError:
            self.count("ended_bad_line")
        except (TimeoutError, ConnectionAbortedError):  # the latter is how asyncio tells that a handshake took too long
            self.count("ended_deadline")
        except ssl.SSLError:
            self.count("ended_bad_tls")
        except OSError:
            self.count("ended_broken")
        except Exception:  # our bug, or a file that somebody edited: it is told, and costs this link alone
            self.count("ended_own_fault")
            log.exception("control port: a question could not be answered")
        except asyncio.CancelledError:
            if not link.crowded_out:
                raise
        finally:
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
            elif transport is None:
                with contextlib.suppress(OSError):
                    accepted.shutdown(socket.SHUT_RDWR)

    async def _handshake(self, accepted: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=LINE_MAX_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, accepted, ssl=self._context(), ssl_handshake_timeout=HANDSHAKE_DEADLINE_S
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    def _caller(self, writer: asyncio.StreamWriter) -> int | None:
        """The node on the other side, None for a stranger. Client processes have certificates too, and no business here."""
        found = writer.get_extra_info("ssl_object").getpeercert()
        if not found:
            return None
        dns = [value for kind, value in found.get("subjectAltName", ()) if kind == "DNS"]
        node = names.node_of(dns[0]) if len(dns) == 1 else None
        if node is None:
            raise EndLinkError("ended_no_node")
        return node

    async def _reply(self, message: dict[str, Any], caller: int | None) -> dict[str, Any]:
        try:
            answer = await self._answer(message, caller)
            log.debug("control port: %s of %s answered", str(message.get("type"))[:20],
                      f"node {caller}" if caller else "a stranger")  # fmt: skip
            return answer
        except RefusedError as error:
            log.info("control port: %s of %s refused: %s", str(message.get("type"))[:20],
                     f"node {caller}" if caller else "a stranger", error)  # fmt: skip
            return {"type": "refused", "reason": str(error)}
