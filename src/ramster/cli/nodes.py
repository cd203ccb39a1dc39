"""`ramster nodes`: every node with what it offers and holds, and who lends to whom."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from ramster.cli import status
from ramster.config import sizes

# The node asks all others, some at a time; each has two seconds.
DEADLINE_MS = 60_000


def main(node: str | None, config: str | None, *, as_json: bool) -> None:
    """Raises ConfigError for a bad file, StartError when no node answers."""
    found = status.ask_node(node, config, {"type": "nodes"}, deadline_ms=DEADLINE_MS)
    found.pop("type", None)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    nodes = Table("node", "address", "state", "offered", "foreign", "free", "latency", "certificate", "", box=None)
    for node in found["nodes"]:
        latency_ms, end_s = node["latency_ms"], node["certificate_expires_s"]
        nodes.add_row(
            str(node["id"]),
            node["address"],
            node["state"],
            sizes.show(node["offered_bytes"]),
            sizes.show(node["foreign_bytes"]),
            sizes.show(node["free_bytes"]),
            "-" if latency_ms is None else f"{latency_ms:.1f} ms",
            "-" if end_s is None else f"{datetime.fromtimestamp(end_s, UTC):%Y-%m-%d}",
            node["reason"],
        )
    console.print(nodes)
    quorum = found["quorum"]
    if not quorum["held"]:
        console.print(f"no quorum: {quorum['reason']}; this node lends nothing more and remotifies nothing")
    _show_lending(console, found["nodes"])
    for client in found["clients"]:
        at = ", ".join(f"{sizes.show(count)} at node {holder}" for holder, count in client["at"].items())
        if at:
            console.print(f"client {client['pid']} ({client['program']}) has {at}")


def _show_lending(console: Any, nodes: list[dict[str, Any]]) -> None:
    """Rows lend, columns borrow; only nodes that do either."""
    from rich.table import Table

    known = [node for node in nodes if node["holds"] is not None]
    borrowers = sorted({int(owner) for node in known for owner, count in node["holds"].items() if count})
    if borrowers:
        table = Table("lends to", *("others" if owner == 0 else str(owner) for owner in borrowers), box=None)
        for node in known:
            if node["holds"]:
                held = (node["holds"].get(str(owner)) for owner in borrowers)
                table.add_row(str(node["id"]), *("-" if count is None else sizes.show(count) for count in held))
        console.print(table)
    else:
        console.print("nobody lends to anybody")
    for node in nodes:
        if node["holds"] is None:
            console.print(f"what node {node['id']} holds is not known: {node['unknown']}")
