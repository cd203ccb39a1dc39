"""The names in certificates: `node-7.ramster` for a node, `c0123456789abcdef.node-7.ramster` for a client process. Pure."""

from __future__ import annotations

import re

# The largest id that a node's file takes.
NODE_MAX = (1 << 63) - 1
_NODE = re.compile(r"node-([1-9][0-9]{0,18})\.ramster")
_FAMILY = re.compile(r"[0-9a-f]{16}")


def of_node(node: int) -> str:
    """The DNS name of a node's certificate, and the subtree that its clients' names are in."""
    return f"node-{node}.ramster"


def of_client(node: int, family: str) -> str:
    """The DNS name of a client process. `family`: the high 64 bits of its number, as 16 hexadecimal digits."""
    return f"c{family}.{of_node(node)}"


def node_of(name: str) -> int | None:
    """The node that `name` means; None when it is no node's name."""
    found = _NODE.fullmatch(name)
    if found is None or int(found[1]) > NODE_MAX:
        return None
    return int(found[1])


def family_of(client: str) -> str | None:
    """The family of a client's number (32 hexadecimal digits); None when it is no such number."""
    return client[:16] if len(client) == 32 and _FAMILY.fullmatch(client[:16]) else None
