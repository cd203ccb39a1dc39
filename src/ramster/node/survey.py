"""Who lends to whom: what this node holds for which other node's clients, and what the others say of themselves when asked.

Covers one question to every peer's control port, and the answer to it. Not: links (`telling`), or words on a terminal (`cli`).
Nothing of it is sent around by itself: it is asked for when somebody wants to see it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ramster.errors import RefusedError
from ramster.node.clients import CLIENTS_MAX, Client
from ramster.node.cluster_side import ClusterSide
from ramster.node.peers import Peer
from ramster.node.telling import tell_all
from ramster.security import credentials, names

# An answer has the largest lines and the sum of the rest: 256 owners of a cluster of 1024 are some 8 KiB.
OWNERS_MAX = 256
# For one peer. The command waits three times as long: hundreds of peers are asked sixteen at a time.
ASK_DEADLINE_MS = 2000
BYTES_MAX = 1 << 62


def held(owners: Iterable[dict[str, Any]]) -> dict[int, int]:
    """Bytes by the node whose clients' pages they are, from the page server's statistics of its clients."""
    found: dict[int, int] = {}
    for owner in owners:
        if owner["bytes"]:
            found[owner["node"]] = found.get(owner["node"], 0) + owner["bytes"]
    return found


def lends(stats: dict[str, Any], caller: int, side: ClusterSide) -> dict[str, Any]:
    """What node `caller` is told of what this node holds: sums by node, and its own clients one by one."""
    sums = sorted(held(stats["clients"]).items(), key=lambda item: (-item[1], item[0]))
    mine = [[owner["client"], owner["bytes"]] for owner in stats["clients"] if owner["node"] == caller]
    return {
        "type": "lends",
        "offered_bytes": stats["offer_bytes"],
        "used_bytes": stats["used_bytes"],
        "holds": [[node, count] for node, count in sums[:OWNERS_MAX]],
        "holds_rest_bytes": sum(count for _, count in sums[OWNERS_MAX:]),
        "yours": sorted(mine, key=lambda pair: -pair[1])[:CLIENTS_MAX],
        "certificate_expires_s": credentials.summary(side.trust.credentials)["certificate_expires_s"],
    }


async def ask(
    nodes: list[dict[str, Any]], clients: Iterable[Client], stats: dict[str, Any], side: ClusterSide | None
) -> dict[str, Any]:
    """`nodes` as `status` has them (this one first), each with what it holds for whom where that can be known, and for each
    client of this node at which nodes its pages are."""
    answers: dict[int, dict[str, Any]] = {}
    took_us: dict[int, int] = {}
    reasons: dict[int, str] = {}
    if side is not None:
        reached = [
            peer for peer in (side.peers.get(node["id"]) for node in nodes[1:] if node["state"] != "down") if peer
        ]
        for outcome in await _ask_all(reached, side):
            reasons[outcome.node] = outcome.reason
            try:
                answers[outcome.node] = _read(outcome.answer)
                took_us[outcome.node] = outcome.took_us
            except RefusedError as error:
                reasons[outcome.node] = reasons[outcome.node] or str(error)
    own = nodes[0]["id"]
    if side is not None:
        answers[own] = _read(lends(stats, own, side))
    else:
        answers[own] = {"holds": held(stats["clients"]), "yours": {}, "certificate_expires_s": None}
    found = []
    for node in nodes:
        said = answers.get(node["id"], {"holds": None, "certificate_expires_s": None})
        free_bytes = said.get("free_bytes", max(node["offered_bytes"] - node["foreign_bytes"], 0))
        latency_ms = node.get("latency_ms")
        if latency_ms is None and node["id"] in took_us:
            latency_ms = round(took_us[node["id"]] / 1000, 3)
        found.append({
            **node, "free_bytes": free_bytes, "latency_ms": latency_ms, "holds": said["holds"],
            "certificate_expires_s": said["certificate_expires_s"],
            "unknown": reasons.get(node["id"], "") if said["holds"] is not None else _why(node, reasons, side),
        })  # fmt: skip
    return {"type": "nodes", "nodes": found, "clients": _clients(clients, answers, own)}


async def _ask_all(peers: list[Peer], side: ClusterSide) -> Any:
    return await tell_all(peers, {"type": "lends"}, side.trust, deadline_ms=ASK_DEADLINE_MS)


def _why(node: dict[str, Any], reasons: dict[int, str], side: ClusterSide | None) -> str:
    if node["state"] == "down":
        return "it is down"
    if side is None:
        return "without certificates nodes cannot ask each other"
    return reasons.get(node["id"]) or "its control port is not known"


def _clients(clients: Iterable[Client], answers: dict[int, dict[str, Any]], own: int) -> list[dict[str, Any]]:
    others = {node: said for node, said in answers.items() if node != own}
    return [
        {
            "pid": client.pid,
            "program": client.program,
            "at": {
                node: said["yours"][client.client] for node, said in others.items() if client.client in said["yours"]
            },
        }
        for client in clients
    ]


def _read(found: dict[str, Any] | None) -> dict[str, Any]:
    """Another node's answer, checked: it may say anything. Raises RefusedError."""
    try:
        if found is None or found["type"] != "lends":
            raise RefusedError("no answer")
        holds, yours = _pairs(found["holds"], OWNERS_MAX), _pairs(found["yours"], CLIENTS_MAX)
        offered, used, rest = (_number(found[key]) for key in ("offered_bytes", "used_bytes", "holds_rest_bytes"))
        sums = {int(node): count for node, count in holds if type(node) is int and 1 <= node <= names.NODE_MAX}
        if rest:
            sums[0] = rest
        return {
            "holds": sums,
            "yours": {str(client)[:32]: count for client, count in yours},
            "free_bytes": max(offered - used, 0),
            "certificate_expires_s": _number(found["certificate_expires_s"]),
        }
    except (KeyError, TypeError, ValueError):
        raise RefusedError("an answer that makes no sense") from None


def _pairs(found: Any, most: int) -> list[tuple[Any, int]]:
    if not isinstance(found, list) or len(found) > most:
        raise ValueError
    return [(name, _number(count)) for name, count in found]


def _number(found: Any) -> int:
    if type(found) is not int or not 0 <= found <= BYTES_MAX:
        raise ValueError
    return found
