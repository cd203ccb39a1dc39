"""This node makes itself known to its peers, each time it starts, until each has answered. Not: their side (`admission`)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

from ramster.config import addresses
from ramster.errors import RamsterError, RefusedError
from ramster.node.departures import Departures
from ramster.node.peers import PEERS_MAX, Peer, Peers, read_peer
from ramster.node.trust import Trust
from ramster.security import names
from ramster.transport import control

log = logging.getLogger("ramster.cluster")

ASK_DEADLINE_MS = 3000
# A peer that is down is tried again after a second, two, four ... a minute: it introduces itself when it comes up, anyway.
RETRY_FIRST_S, RETRY_MOST_S = 1.0, 60.0
# A cluster that comes up at once must not open hundreds of links from each node in one moment.
AT_ONCE = 8


class Introductions:
    """Tells every peer where this node is. `learnt` is awaited with each peer that another one spoke of, `departed` with the list
    of who is gone that a peer sent along."""

    def __init__(
        self,
        own: Peer,
        peers: Peers,
        trust: Trust,
        *,
        learnt: Callable[[Peer], Awaitable[None]],
        departed: Callable[[int, object], Awaitable[Departures]],
    ) -> None:
        self._own, self._peers, self._trust, self._learnt, self._departed = own, peers, trust, learnt, departed
        self._next_s: dict[int, float] = {}
        self._wait_s: dict[int, float] = {}
        self._told: dict[int, str] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            now_s = loop.time()
            due = [peer for peer in self._peers if self._is_due(peer, now_s)]
            await asyncio.gather(*(self._tell(peer) for peer in due))
            await asyncio.sleep(RETRY_FIRST_S)

    def seen_up(self, node: int) -> None:
        """The peer answers again: it need not wait for its turn."""
        self._next_s.pop(node, None)

    def forget(self, node: int) -> None:
        """The peer left: should it come back, it is told again."""
        for known in (self._next_s, self._wait_s, self._told):
            known.pop(node, None)

    def _is_due(self, peer: Peer, now_s: float) -> bool:
        return self._told.get(peer.node) != peer.control and now_s >= self._next_s.get(peer.node, 0.0)

    async def _tell(self, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        host, port = addresses.split(peer.control, of="control")
        message = {"type": "introduce", **self._own.plain()}
        try:
            async with self._gate:
                answer = await control.ask(
                    host,
                    port,
                    message,
                    context=self._trust.asking,
                    name=names.of_node(peer.node),
                    deadline_ms=ASK_DEADLINE_MS,
                )
        except (OSError, RamsterError) as error:
            wait_s = min(self._wait_s.get(peer.node, RETRY_FIRST_S / 2) * 2, RETRY_MOST_S)
            if peer.node not in self._wait_s:
                log.info(
                    "peer %d (%s) does not know this node yet: %s",
                    peer.node,
                    peer.control,
                    control.why(error),
                )
            self._wait_s[peer.node] = wait_s
            # Spread: peers that went down together are not asked together for ever.
            self._next_s[peer.node] = loop.time() + wait_s * random.uniform(0.8, 1.2)
            return
        if self._peers.get(peer.node) is None:
            return  # it left meanwhile
        self._told[peer.node] = peer.control
        self._wait_s.pop(peer.node, None)
        log.info("introduced to peer %d (%s)", peer.node, peer.control)
        await self._hear(peer, answer)

    async def _hear(self, peer: Peer, answer: dict[str, Any]) -> None:
        """Takes over what the peer says of itself, and whom else it knows."""
        try:
            said = read_peer(answer)
            if said.node == peer.node and self._peers.introduced(said):
                self._told[peer.node] = said.control
                await self._learnt(said)
            departures = await self._departed(peer.node, answer.get("departed"))
            others = answer.get("peers")
            for entry in others[:PEERS_MAX] if isinstance(others, list) else []:
                other = read_peer(entry)
                if other.node not in departures and self._peers.heard_of(other):
                    await self._learnt(other)
        except RefusedError as error:
            log.warning("peer %d answered an introduction with nonsense: %s", peer.node, error)
