"""One question to many nodes' control ports at once. Covers limits and outcomes. Not: what is said."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ramster.config import addresses
from ramster.errors import RamsterError
from ramster.node.peers import Peer
from ramster.node.trust import Trust
from ramster.security import names
from ramster.transport import control

# A handshake costs a millisecond or so; hundreds of links in one moment would starve this node's own port.
AT_ONCE = 16


@dataclass(frozen=True)
class Outcome:
    """What one node said: its answer, or None and why not. `took_us`: from the first byte to the last."""

    node: int
    answer: dict[str, Any] | None
    reason: str = ""
    took_us: int = 0


async def tell_all(peers: Iterable[Peer], message: dict[str, Any], trust: Trust, *, deadline_ms: int) -> list[Outcome]:
    """Asks each of `peers`; an outcome for each, in their order. `deadline_ms` is for each one."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def tell(peer: Peer) -> Outcome:
        loop = asyncio.get_running_loop()
        host, port = addresses.split(peer.control, of="control")
        name = names.of_node(peer.node)
        async with gate:
            begun_s = loop.time()
            try:
                answer = await control.ask(
                    host, port, message, context=trust.asking, name=name, deadline_ms=deadline_ms
                )
            except (OSError, RamsterError) as error:
                return Outcome(peer.node, None, control.why(error))
            return Outcome(peer.node, answer, took_us=int((loop.time() - begun_s) * 1e6))

    return list(await asyncio.gather(*(tell(peer) for peer in peers)))
