"""How the memory that peers lend is shared among the programs of one machine: each may hold so many times what is still free.

Dynamic thresholds, as switches share the memory of their queues (Choudhury and Hahne, "Dynamic queue length thresholds for
shared-memory packet switches", IEEE/ACM Transactions on Networking 6(2), 1998): no program needs to be known, or to say what it
wants; one alone gets nearly all, of several that want all each gets the same, and who comes late always finds some.

Not: taking back what a program holds already. What it changes comes home and, over the limit, does not leave again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# One greedy program gets 16/17 of what the cluster lends, two 16/33 each. Half of that, and a lone program would leave a
# ninth unused; twice, and who comes late finds 3 %.
FACTOR = 16
# While nothing is known of the peers, or little is free: room for the pages that are on their way.
LEAST_BYTES = 64 << 20
# Changes smaller than this part are not worth a message to every program.
STEP_FRACTION = 8


def free_bytes(nodes: Iterable[Mapping[str, Any]], own: int) -> int:
    """What the other nodes have left, as `ramster status` shows them."""
    up = (node for node in nodes if node["id"] != own and node["state"] == "up")
    return sum(max(node["offered_bytes"] - node["foreign_bytes"], 0) for node in up)


def limit_bytes(free: int) -> int:
    """What one program may hold at peers while they have `free` bytes left."""
    return max(FACTOR * free, LEAST_BYTES)


def is_news(told: int, limit: int) -> bool:
    """Whether programs that were told the one limit should hear of the other."""
    return abs(limit - told) * STEP_FRACTION > told
