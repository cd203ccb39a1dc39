"""Registers this node with etcd under a lease, and follows who else is registered. Covers renewing, watching, and coming back
after etcd was away.

Not: what registrations mean (`cluster.registry`), or the bytes (`transport.etcd`).
"""

from __future__ import annotations

import asyncio
import logging

from ramster.cluster.registry import Registry, decode, encode, lease_s
from ramster.errors import RefusedError
from ramster.node.heartbeats import now_ms
from ramster.transport.etcd import Compacted, Etcd, pause

log = logging.getLogger("ramster.membership")

# A watch that says nothing may be a connection that nobody ends any more: it is opened again after this many times
# `death_ms`. Doubled, such a node's view is old for twice as long; halved, 200 nodes ask etcd twice as often for nothing.
WATCH_DEATHS = 12
GOODBYE_MS = 1000
# An earlier lease may end between looking and writing; that more often than once is somebody else's doing.
REGISTER_TRIES = 3


class Registration:
    """Runs a membership by registration. `news` is set when something may have changed."""

    def __init__(self, membership: Registry, store: Etcd) -> None:
        self.membership = membership
        self.news = asyncio.Event()
        self.resyncs = 0
        self._store = store
        self._lease: str | None = None
        self._claims = False
        self._kept_ms = now_ms()
        self._lease_ms = lease_s(membership.timing) * 1000
        # Each node at a pace of its own, so that hundreds do not come back to etcd in step.
        half_ms = membership.timing.heartbeat_ms // 2
        self._retry_ms = half_ms + membership.own.id * 7919 % half_ms
        self._revision: int | None = None
        self._following: asyncio.Timeout | None = None

    async def run(self) -> None:
        """For as long as the node runs; its end ends the registration."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                tasks.create_task(self._stay())
                tasks.create_task(self._tick())
        finally:
            await self._leave()

    def learn(self, node: int, address: str) -> bool:  # noqa: ARG002
        """A node was introduced. Who is a member, and where, is what is registered; nothing to do."""
        return True

    def latency_us(self, node: int) -> int | None:  # noqa: ARG002
        """Not known: nodes that register do not ask each other."""
        return None

    async def _tick(self) -> None:
        while True:
            self.membership.tick(now_ms())
            if self.membership.view.changed:
                self.news.set()
            await pause(self.membership.timing.heartbeat_ms // 2)

    async def _stay(self) -> None:
        """Holds a lease and an entry under it. Three renewals fit into a lease: one may be lost."""
        while True:
            asked_ms = now_ms()
            try:
                await self._renew()
                self._kept_ms = asked_ms
                self.membership.kept(asked_ms, now_ms())
            except (OSError, RefusedError) as error:
                self._lost(error)
                await pause(self._retry_ms)
                continue
            self.news.set()
            await pause(max(self._lease_ms // 3 - (now_ms() - asked_ms), self._retry_ms // 4))

    async def _renew(self) -> None:
        if self._lease is not None and not await self._store.keep(self._lease):
            log.warning("etcd: the lease has ended; this node registers again")
            self.membership.gone("the lease has ended", now_ms())
            self._lease = None
        if self._lease is None:
            self._lease = await self._store.grant(self._lease_ms // 1000)
            self._claims = False
            self.membership.registered = None
        if self.membership.overtaken or not await self._register():
            if not self._claims:
                log.warning(
                    "etcd: another node is registered as %d; give one of them an id of its own", self.membership.own.id
                )
            await self._store.put(self.membership.own_claim, encode(self.membership.own), self._lease)
            self._claims = True
        elif self._claims:
            await self._store.delete(self.membership.own_claim)
            self._claims = False

    async def _register(self) -> bool:
        """Whether the entry is ours. An earlier life's is taken over, a later one's never."""
        own, lease = self.membership.own, self._lease
        assert lease is not None
        if not self.membership.worth_telling(self.membership.registered):
            return True
        for _ in range(REGISTER_TRIES):
            found = await self._store.get(self.membership.own_key)
            there = decode(found.value) if found is not None else None
            if there is not None and there.incarnation > own.incarnation:
                return False
            changed = found.changed if found is not None else 0
            if await self._store.put(self.membership.own_key, encode(own), lease, if_changed=changed):
                self.membership.registered = own
                return True
        raise RefusedError("etcd: this node's entry changes with every look")

    def _lost(self, error: Exception) -> None:
        at_ms = now_ms()
        self.membership.lost(str(error), at_ms)
        self.news.set()
        if at_ms - self._kept_ms > self._lease_ms:
            # What may have lapsed is never renewed: a node that is heard but cannot hear would stay registered for ever.
            self._lease = None
            # Nor is what a dead connection may still bring of use: all is listed again.
            self._revision = None
            if self._following is not None:
                self._following.reschedule(0)

    async def _watch(self) -> None:
        """Lists, then follows from that revision. After compaction, or longer than a lease without etcd, lists again."""
        while True:
            try:
                if self._revision is None:
                    entries, at = await self._store.list(self.membership.prefix)
                    self.membership.synced(((entry.key, entry.value) for entry in entries), now_ms())
                    self.resyncs += 1
                    self._revision = at + 1
                    self.news.set()
                await self._follow(self._revision)
            except Compacted:
                self._revision = None
            except (OSError, RefusedError) as error:
                self.membership.lost(str(error), now_ms())
            await pause(self._retry_ms // 4)

    async def _follow(self, revision: int) -> None:
        try:
            async with asyncio.timeout(None) as self._following:
                within_ms = WATCH_DEATHS * self.membership.timing.death_ms
                async for batch in self._store.watch(self.membership.prefix, revision, within_ms=within_ms):
                    for key, value in batch.events:
                        if value is None:
                            self.membership.deleted(key, now_ms())
                        else:
                            self.membership.put(key, value, now_ms())
                    if batch.events:
                        self._revision = batch.revision + 1
                        self.news.set()
        finally:
            self._following = None

    async def _leave(self) -> None:
        lease, self._lease = self._lease, None
        try:
            async with asyncio.timeout(GOODBYE_MS / 1000):
                if lease is not None:
                    await self._store.revoke(lease)
        except (OSError, RefusedError, TimeoutError):
            pass  # the lease ends by itself
        finally:
            await self._store.close()
