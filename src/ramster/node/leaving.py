"""Leaving the cluster for good, and forgetting a node that died for good: what `ramster leave` and `ramster forget` order.

Covers the order of steps, who is told, and what the command hears. Not: how pages leave (`drain`, and the owners), what others do
with what they are told (`cluster_side`).

The order of leaving is its safety: the others are told first, so that nothing new comes; owners take their pages away; only when
nothing is left does this node say that it goes, under its own certificate. At the deadline it stays, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import Any

from ramster import _native
from ramster.cluster.membership import State
from ramster.errors import RefusedError
from ramster.node import drain, survey
from ramster.node.cluster_side import ClusterSide
from ramster.node.standing import Standing
from ramster.node.telling import tell_all
from ramster.security import files

log = logging.getLogger("ramster.cluster")

# A peer that does not answer by then hears of it from the node that signs.
TELL_DEADLINE_MS = 3000
# Longer than any drain is worth waiting for.
DEADLINE_MS_MOST = 24 * 3600 * 1000
# What `--wipe` removes: this node's keys and certificates, and what it knows of others. Its file is the user's.
WIPED = (files.NODE, files.CLIENTS, files.ROOTS, files.PEERS, files.DEPARTED)


class Leaving:
    """One node's way out. `stopping` is set when it is to end anyway."""

    def __init__(
        self, node: int, standing: Standing, side: ClusterSide | None, stopping: asyncio.Event, *, is_etcd: bool
    ) -> None:
        self._node, self._standing, self._side, self._stopping = node, standing, side, stopping
        self._is_etcd = is_etcd
        self.under_way = False
        # It has left: the process is to end, without draining again.
        self.is_gone = False
        self._wipe = False

    async def leave(self, server: _native.Server, message: dict[str, Any]) -> dict[str, Any]:
        """Leaves, or stays at the deadline. Raises RefusedError when it must not."""
        deadline_ms, force, wipe = message.get("deadline_ms"), message.get("force") is True, message.get("wipe") is True
        if type(deadline_ms) is not int or not 0 < deadline_ms <= DEADLINE_MS_MOST:
            raise RefusedError("leave: deadline_ms must be a number of milliseconds, a day at most")
        self._check(wipe=wipe)
        self.under_way = True
        try:
            log.info("node %d leaves: its pages go elsewhere, within %d s", self._node, deadline_ms // 1000)
            self._standing.leaving(self._node, is_leaving=True)
            await self._tell(server, "draining")
            left_bytes = await drain.drain(server, hurry=self._stopping, deadline_ms=deadline_ms)
            owners = survey.held(server.stats()["clients"])
            if left_bytes and not force:
                self._standing.leaving(self._node, is_leaving=False)
                await self._tell(server, "stays")
                log.warning("node %d stays: %d KiB of pages were not taken away", self._node, left_bytes >> 10)
                return {"type": "stays", "left_bytes": left_bytes, "owners": owners}
            untold = await self._tell(server, "left")
            log.info("node %d has left the cluster", self._node)
            self.is_gone, self._wipe = True, wipe
            return {
                "type": "left", "left_bytes": left_bytes, "owners": owners, "untold": untold, "wiped": wipe,
                "dir": self._side.directory.path if self._side else None,
                "passed_on_by": self._passed_on_by(untold),
            }  # fmt: skip
        finally:
            self.under_way = False

    def _check(self, *, wipe: bool) -> None:
        others = [member.id for member in self._standing.membership.members()]
        if self.under_way:
            raise RefusedError("leave: this node is leaving already")
        if self._side is None:
            if wipe:
                raise RefusedError("leave: --wipe: this node has no certificates to remove")
            if others and not self._is_etcd:
                cure = "stop it (SIGTERM drains it too) and take it out of [[peers]] in their files"
                raise RefusedError(f"leave: without certificates the others go by their files; {cure}")
            return
        if self._side.signs and others:
            cure = "move ca.key to another one first (docs/operations.md, Certificates and rotation)"
            raise RefusedError(f"leave: this node signs for nodes {_list(others)}; {cure}")
        if wipe and self._side.directory.has(files.AUTHORITY_KEY):
            path = self._side.directory.file(files.AUTHORITY_KEY)
            raise RefusedError(f"leave: --wipe: {path} is the cluster's authority; remove it yourself if you mean it")

    async def _tell(self, server: _native.Server, phase: str) -> list[int]:
        """Tells all members; returns those who could not be told."""
        if self._side is None:
            return []
        members = {member.id for member in self._standing.membership.members()}
        message = {"type": "leave", "phase": phase, "incarnation": server.incarnation}
        peers = [peer for peer in self._side.peers if peer.node in members]
        outcomes = await tell_all(peers, message, self._side.trust, deadline_ms=TELL_DEADLINE_MS)
        told = {outcome.node for outcome in outcomes if outcome.answer is not None}
        for outcome in outcomes:
            if outcome.answer is None:
                log.info("peer %d was not told (%s): %s", outcome.node, phase, outcome.reason)
        return sorted(members - told)

    def _passed_on_by(self, untold: list[int]) -> int | None:
        signer = self._side.authority if self._side else None
        return None if signer in untold else signer

    def wipe(self) -> None:
        """As the process ends: removes what was to be removed, if anything."""
        if not self._wipe or self._side is None:
            return
        for name in WIPED:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._side.directory.file(name))


async def forget(
    node: object, *, force: bool, own: int, standing: Standing, side: ClusterSide | None
) -> dict[str, Any]:
    """On the node that signs: `node` is a member no more and its certificate is good for nothing. Raises RefusedError."""
    if type(node) is not int:
        raise RefusedError("forget: a node's id is a whole number")
    if side is None:
        raise RefusedError("forget: without certificates nodes go by their files; take it out of [[peers]] there")
    if not side.signs:
        raise RefusedError(f"forget: this node does not sign; run it on node {side.authority}")
    if node == own:
        raise RefusedError(f"forget: {node} is this node itself, which signs; move ca.key to another one first")
    member = next((member for member in standing.membership.members() if member.id == node), None)
    if member is None and not side.knows(node):
        raise RefusedError(f"forget: no node {node} is known; ramster nodes shows who is")
    if member is not None and member.state in (State.UP, State.SUSPECT) and not force:
        cure = "run ramster leave there, or add --force if its keys were stolen"
        raise RefusedError(f"forget: node {node} is {member.state}; {cure}")
    await side.revoke(node)
    await side.passing_on.tell()
    return {"type": "forgotten", "node": node, "untold": side.passing_on.untold()}


def _list(nodes: list[int]) -> str:
    shown = [str(node) for node in nodes[:8]]
    return ", ".join(shown) + (" ..." if len(nodes) > 8 else "")
