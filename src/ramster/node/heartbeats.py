"""Asks the peers of a static membership who they are, and tells it what came of that. With certificates a question goes over
TLS, and only the node that is asked for can answer.

Not: what an answer means (`cluster.static`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ramster import _native
from ramster.cluster.membership import Announcement
from ramster.cluster.static import NODES_MAX, Ask, Static
from ramster.errors import RamsterError

log = logging.getLogger("ramster.membership")


def now_ms() -> int:
    """CLOCK_MONOTONIC: silence is counted in time in which this machine could listen. It stands still while the machine sleeps,
    where CLOCK_BOOTTIME would go on, and no change of the wall clock moves it."""
    return time.monotonic_ns() // 1_000_000


class Heartbeats:
    """Runs a static membership. `news` is set when something may have changed. `credentials` gives those now in force."""

    def __init__(self, membership: Static, credentials: Callable[[], dict[str, str]] | None = None) -> None:
        self.membership = membership
        self._credentials = credentials
        self.news = asyncio.Event()
        self._outcome = asyncio.Event()
        # A question that nobody answers keeps its thread for `ask_ms`; none of the others may wait for that.
        self._threads = ThreadPoolExecutor(NODES_MAX, thread_name_prefix="ramster-ask")
        self._latency_us: dict[int, int] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """For as long as the node runs."""
        heartbeat_ms = self.membership.timing.heartbeat_ms
        try:
            while True:
                self._outcome.clear()
                for ask in self.membership.due(now_ms()):
                    task = asyncio.create_task(self._ask(ask))
                    self._asking.add(task)
                    task.add_done_callback(self._done)
                if self.membership.view.changed:
                    self.news.set()
                wait_ms = min(max(self.membership.next_ms() - now_ms(), 1), heartbeat_ms)
                try:
                    async with asyncio.timeout(wait_ms / 1000):
                        await self._outcome.wait()
                except TimeoutError:
                    pass
        finally:
            for task in self._asking:
                task.cancel()
            self._threads.shutdown(wait=False, cancel_futures=True)

    def latency_us(self, node: int) -> int | None:
        """How long the last answer of a node took, with opening a link to it. None: it has not answered yet."""
        return self._latency_us.get(node)

    def learn(self, node: int, address: str) -> bool:
        """A node was introduced; it is asked at once. False when there are as many as `static` is for."""
        taken = self.membership.learn(node, address, now_ms())
        self._outcome.set()
        return taken

    def _done(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        self._outcome.set()
        if not task.cancelled():
            task.result()  # a defect of ours ends the node loudly

    async def _ask(self, ask: Ask) -> None:
        own_id, deadline_ms = self.membership.own.id, self.membership.timing.ask_ms
        credentials = self._credentials() if self._credentials else None
        peer = ask.id if credentials else None
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._threads, _native.ask_peer, ask.address, own_id, deadline_ms, peer, credentials
            )
        except ConnectionRefusedError as error:
            log.debug("peer %d (%s): %s", ask.id, ask.address, error)
            self.membership.refused(ask, str(error), now_ms())
        except (OSError, RamsterError) as error:
            log.debug("peer %d (%s): %s", ask.id, ask.address, error)
            self.membership.missed(ask, str(error), now_ms())
        else:
            said = Announcement(
                found["node"], ask.address, found["incarnation"], found["offer_bytes"], found["free_bytes"]
            )
            log.debug("peer %d (%s) answered in %d us", said.id, ask.address, found["took_us"])
            if said.id == ask.id:
                self._latency_us[ask.id] = found["took_us"]
            self.membership.answered(ask, said, now_ms())
