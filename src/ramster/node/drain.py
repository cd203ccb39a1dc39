"""Going away: a node offers nothing any more and waits until the owners have taken their pages elsewhere or home.

Not: moving pages, which is the owners' (they hear of the offer over their links), or ending the process.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ramster import _native

log = logging.getLogger("ramster.lending")

# 10 s: a gigabit link carries about a GiB in that time. Longer, and a shutdown's own patience (90 s by default under systemd, for
# everything together) is used up here; an owner that is stopped would never answer at all.
DRAIN_MS = 10_000
LOOK_MS = 20
AGAIN_MS = 1000


async def drain(server: _native.Server, *, hurry: asyncio.Event, deadline_ms: int = DRAIN_MS) -> int:
    """Returns how many bytes of other machines' pages are still here: 0, or what owners did not take within `deadline_ms`.

    `hurry` ends the wait at once (a second signal).
    """
    held = used_bytes(server)
    server.set_offer(0)
    if held == 0:
        return 0
    log.info("asks %d owners to take %d MiB of pages away", len(server.stats()["clients"]), held >> 20)
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_ms / 1000
    say_again = loop.time() + AGAIN_MS / 1000
    while (held := used_bytes(server)) and loop.time() < end and not hurry.is_set():
        if loop.time() >= say_again:
            # Owners that have taken what they were asked for hear of what is left.
            server.set_offer(0)
            say_again += AGAIN_MS / 1000
        await asyncio.sleep(LOOK_MS / 1000)
    if held:
        log.warning("%d KiB of pages were not taken away in time: owners without another copy lose them", held >> 10)
    else:
        log.info("all pages were taken away")
    return held


def used_bytes(server: _native.Server) -> int:
    """Of foreign pages."""
    stats: dict[str, Any] = server.stats()
    return int(stats["used_bytes"])
