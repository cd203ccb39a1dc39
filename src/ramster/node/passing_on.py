"""The node that signs tells every other one who left and who is revoked, until each has heard it. Not: what they do with it."""

from __future__ import annotations

import asyncio
import logging

from ramster.node.departures import Departures
from ramster.node.peers import Peer, Peers
from ramster.node.telling import tell_all
from ramster.node.trust import Trust

log = logging.getLogger("ramster.cluster")

ASK_DEADLINE_MS = 3000
# A node that is away is tried again after 1, 2, 4 ... 60 s. It asks by itself, too, when it starts: the answer to its
# introduction has the list.
RETRY_FIRST_S, RETRY_MOST_S = 1.0, 60.0


class PassingOn:
    """`news` is set when the list has changed."""

    def __init__(self, peers: Peers, departures: Departures, trust: Trust) -> None:
        self._peers, self._departures, self._trust = peers, departures, trust
        self.news = asyncio.Event()
        self._told: dict[int, int] = {}
        self._wait_s: dict[int, float] = {}
        self._next_s: dict[int, float] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self.tell()
            try:
                async with asyncio.timeout(RETRY_FIRST_S):
                    await self.news.wait()
                self.news.clear()
                self._next_s.clear()
            except TimeoutError:
                pass

    async def tell(self) -> None:
        """Tells those who are due and have not heard the present list."""
        version = self._departures.version
        if version == 0:
            return
        now_s = asyncio.get_running_loop().time()
        due = [peer for peer in self._peers if self._is_due(peer, version, now_s)]
        message = {"type": "departed", **self._departures.plain()}
        for outcome in await tell_all(due, message, self._trust, deadline_ms=ASK_DEADLINE_MS):
            if outcome.answer is not None:
                self._told[outcome.node] = version
                self._wait_s.pop(outcome.node, None)
                continue
            log.debug("peer %d has not heard who is gone: %s", outcome.node, outcome.reason)
            wait_s = min(self._wait_s.get(outcome.node, RETRY_FIRST_S / 2) * 2, RETRY_MOST_S)
            self._wait_s[outcome.node], self._next_s[outcome.node] = wait_s, now_s + wait_s

    def untold(self) -> list[int]:
        """Who has not heard the present list yet."""
        return [peer.node for peer in self._peers if self._told.get(peer.node) != self._departures.version]

    def _is_due(self, peer: Peer, version: int, now_s: float) -> bool:
        return self._told.get(peer.node) != version and now_s >= self._next_s.get(peer.node, 0.0)
