"""`[node] metrics`: what Prometheus asks a node for, over HTTP on loopback, in the node's own loop. Covers figures and the port.

Not: names (`metrics.names`) and the format (`metrics.exposition`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

import ramster
from ramster import _native
from ramster.errors import StartError
from ramster.metrics import names
from ramster.metrics.exposition import Figures, render
from ramster.metrics.totals import Totals
from ramster.node.clients import Client

# Prometheus asks each 15 s or so, on one connection; more of them wait in the kernel.
BACKLOG = 16
# How long a connection may do nothing.
KEEPALIVE_S = 75.0

Samples = dict[str, list[tuple[tuple[str, ...], float]]]


async def serve(host: str, port: int, figures: Callable[[], Figures], *, of: str) -> Callable[[], Any]:
    """Serves until what it returns is awaited. Raises StartError naming `of` when the port cannot be had."""

    async def answer(request: web.Request) -> web.Response:
        content_type, body = render(figures(), request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    application = web.Application(client_max_size=4096)
    application.router.add_get("/metrics", answer)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, keepalive_timeout=KEEPALIVE_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
    except OSError as error:
        await runner.cleanup()
        raise StartError(
            f"{of}: cannot listen on {host}:{port} ({error}); choose a free port of this machine"
        ) from None
    return runner.cleanup


def figures(
    *,
    status: dict[str, Any],
    stats: dict[str, Any],
    limit_bytes: int,
    latency_us: Callable[[int], int | None],
    refused: Counter[str],
    clients: Iterable[Client],
    totals: Totals,
) -> Figures:
    """From what the node knows at this moment: its status, its page server's statistics, and its clients'."""
    own, *members = status["nodes"]
    samples: Samples = {
        **_node(own, stats, limit_bytes),
        **_pages(stats),
        **_cluster(status, members, latency_us),
        **_clients(list(clients)),
        "ramster_admin_refused_total": [((reason,), refused[reason]) for reason in ADMIN_REASONS],
    }
    counters, histograms = totals.sums()
    return Figures(samples, counters, histograms, _native.HISTOGRAMS)


ADMIN_REASONS = ("other_user", "bad_message", "too_many_clients")


def _node(own: dict[str, Any], stats: dict[str, Any], limit_bytes: int) -> Samples:
    node = str(own["id"])
    bytes_by, pages_by = Counter[int](), Counter[int]()
    for owner in stats["clients"]:
        bytes_by[owner["node"]] += owner["bytes"]
        pages_by[owner["node"]] += owner["pages"]
    shown = {owner for owner, _ in bytes_by.most_common(names.OWNERS_MAX)}

    def by_owner(found: Counter[int]) -> list[tuple[tuple[str, ...], float]]:
        samples: list[tuple[tuple[str, ...], float]] = [((node, str(owner)), found[owner]) for owner in sorted(shown)]
        rest = sum(count for owner, count in found.items() if owner not in shown)
        return [*samples, ((node, names.OTHERS), rest)] if len(found) > len(shown) else samples

    return {
        "ramster_node_info": [((node, ramster.__version__), 1)],
        "ramster_node_offered_bytes": [((node,), own["offered_bytes"])],
        "ramster_node_limit_bytes": [((node,), limit_bytes)],
        "ramster_node_used_bytes": [((node,), stats["used_bytes"])],
        "ramster_node_foreign_bytes": by_owner(bytes_by),
        "ramster_node_foreign_pages": by_owner(pages_by),
    }


def _pages(stats: dict[str, Any]) -> Samples:
    misses = stats["gets_miss"] - stats["gets_gone"] - stats["gets_stale"]
    gets = {"hit": stats["gets_hit"], "miss": misses, "gone": stats["gets_gone"], "stale": stats["gets_stale"]}
    return {
        "ramster_page_links": [((), stats["links"])],
        "ramster_page_links_accepted_total": [((), stats["links_accepted"])],
        "ramster_page_links_ended_total": [((reason,), count) for reason, count in stats["links_ended"].items()],
        "ramster_page_accepts_paused_total": [((), stats["accepts_paused"])],
        "ramster_foreign_puts_stored_total": [((), stats["puts_stored"])],
        "ramster_foreign_puts_refused_total": [
            ((reason,), stats[f"puts_refused_{reason}"]) for reason in ("full", "gone", "stale")
        ],
        "ramster_foreign_gets_total": [((outcome,), count) for outcome, count in gets.items()],
        "ramster_foreign_pages_flushed_total": [((), stats["pages_flushed"])],
        "ramster_foreign_pages_dropped_total": [((), stats["pages_dropped"])],
        "ramster_foreign_shares_total": [((), stats["shares"])],
        "ramster_foreign_refusals_total": [
            (("share",), stats["shares_refused"]),
            (("older_incarnation",), stats["accounts_refused_older"]),
        ],
        "ramster_foreign_owners_total": [
            ((event,), stats[f"accounts_{event}"]) for event in ("superseded", "returned", "expired")
        ],
    }


def _cluster(status: dict[str, Any], members: list[dict[str, Any]], latency_us: Callable[[int], int | None]) -> Samples:
    states = Counter(member["state"] for member in members)
    latencies = [(member["id"], latency_us(member["id"])) for member in members if member["state"] != "down"]
    found: Samples = {
        "ramster_members": [((state,), states[state]) for state in ("up", "suspect", "leaving", "unknown", "down")],
        "ramster_member_latency_seconds": [((str(node),), us / 1e6) for node, us in latencies if us is not None],
        "ramster_quorum_held": [((), int(status["quorum"]["held"]))],
    }
    if side := status.get("cluster"):
        ends = (("node", side["certificate_expires_s"]), ("clients", side["clients_expire_s"]))
        found["ramster_certificate_end_timestamp_seconds"] = [((which,), end_s) for which, end_s in ends]
        counts = dict(side.get("control_counts", {}))
        if "links" in counts:
            found["ramster_control_links"] = [((), counts.pop("links"))]
        found["ramster_control_events_total"] = [((event,), count) for event, count in counts.items()]
    return found


def _clients(clients: list[Client]) -> Samples:
    sums = Counter[str]()
    blocks = {client.block: client.stats for client in clients}

    def trees(stat: str) -> int:
        return sum(stats.get(stat, 0) > 0 for stats in blocks.values())

    for client in clients:
        for where, stat in (("resident", "bytes_resident"), ("stored", "bytes_stored"), ("remote", "bytes_remote")):
            sums[where] += client.stats.get(stat, 0)
    return {
        "ramster_clients": [((), len(clients))],
        "ramster_clients_bytes": [((where,), sums[where]) for where in ("resident", "stored", "remote")],
        "ramster_clients_disk": [((state,), trees(f"disk_{state}")) for state in ("hangs", "full", "failed")],
        "ramster_clients_rebuilding": [((), trees("rebuilding"))],
    }
