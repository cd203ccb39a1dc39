"""`ramster status`: asks the local node and prints its nodes and clients."""

from __future__ import annotations

import json
from typing import Any

from ramster.config import file, machine, places, sizes
from ramster.errors import StartError
from ramster.transport import lines

DEADLINE_MS = 3000


def main(node: str | None, config: str | None, *, as_json: bool) -> None:
    """Raises ConfigError for a bad file, StartError when no node answers."""
    status = ask_node(node, config, {"type": "status"})
    status.pop("type", None)
    if as_json:
        print(json.dumps(status, indent=2))
    else:
        _show(status)


def ask_node(
    node: str | None, config: str | None, question: dict[str, Any], *, deadline_ms: int = DEADLINE_MS
) -> dict[str, Any]:
    """What the node that the flags mean answers. Raises StartError when there is none."""
    path = socket_path(node, config)
    try:
        return lines.ask(path, question, deadline_ms=deadline_ms)
    except OSError as error:
        why = "did not answer in time" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
        cure = "start one with: ramster node --config FILE, or name its socket with --node"
        raise StartError(f"no node at {path} ({why}); {cure}") from None


def socket_path(node: str | None, config: str | None) -> str:
    """The admin socket that the flags mean."""
    if node is not None:
        return node
    if config is not None:
        found = file.read(config, ram_bytes=machine.memory().ram_bytes)
        if found.node is not None:
            return found.node.socket
    return places.default_socket()


def _show(status: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    nodes = Table("node", "address", "state", "offered", "foreign", "", box=None)
    for node in status["nodes"]:
        nodes.add_row(
            str(node["id"]),
            node["address"],
            node["state"],
            sizes.show(node["offered_bytes"]),
            sizes.show(node["foreign_bytes"]),
            node["reason"],
        )
    console.print(nodes)
    quorum = status["quorum"]
    if not quorum["held"]:
        console.print(f"no quorum: {quorum['reason']}; this node lends nothing more and remotifies nothing")
    clients = Table("client", "program", "resident", "stored", "remote", "disk", box=None)
    for client in status["clients"]:
        figures = (sizes.show(client[key]) for key in ("resident_bytes", "stored_bytes", "remote_bytes"))
        clients.add_row(str(client["pid"]), client["program"], *figures, client.get("disk", "none"))
    console.print(clients if status["clients"] else "no client is registered")
