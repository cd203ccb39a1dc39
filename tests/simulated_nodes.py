"""Many nodes' static membership in one process: a simulated clock and network around the code itself. One seed, one history.

Covers delays, losses, cuts one way and both, nodes that die, vanish, are suspended, move, come back, and namesakes.
Not: pages, or etcd.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from ramster.cluster.membership import Announcement, Member, Quorum, Timing
from ramster.cluster.static import Ask, Static

# What one question costs on the wire, both frames; docs/protocol.md has the fields of Hello and Welcome.
HELLO_BYTES, WELCOME_BYTES = 62, 68
# One answer to "where is node N?": id, incarnation, address with its port.
WHERE_BYTES = 40
DELAY_MS_MOST = 40
LOOK_MS = 20


@dataclass
class SimulatedNode:
    """One machine with at most one node on it. `key` names the machine; `id` is what the node calls itself."""

    key: int
    id: int
    address: str
    membership: Static | None = None
    own: Announcement | None = None
    reachable: bool = True
    suspended: bool = False
    waiting: list[Callable[[], None]] = field(default_factory=list)
    life: int = 0
    wake_at_ms: int = -1


class SimulatedCluster:
    """Nodes 1 to `size`. Everything that happens is an event on one heap; random numbers come from the seed alone."""

    def __init__(
        self, size: int, seed: int, *, timing: Timing | None = None, make: type[Static] = Static, loss: float = 0.0
    ) -> None:
        self.timing = timing or Timing()
        self.now_ms = 1000
        self.messages = 0
        self.bytes = 0
        self.loss = loss
        self.delay_ms_most = DELAY_MS_MOST
        self._make = make
        self._random = random.Random(seed)
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._events = 0
        self._incarnation = 0
        self.cuts: set[tuple[int, int]] = set()
        self.nodes = {key: SimulatedNode(key, key, f"10.0.0.{key}:7946") for key in range(1, size + 1)}
        self._file = [(node.id, node.address) for node in self.nodes.values()]
        self._ports = 8000

    # Nodes come and go.

    def start(self, key: int, *, moved: bool = False, incarnation: int | None = None) -> None:
        node = self.nodes[key]
        if moved:
            self._ports += 1
            node.address = f"10.0.0.{key}:{self._ports}"
        self._incarnation += 1
        own = Announcement(node.id, node.address, incarnation or self._incarnation, 1 << 30, 1 << 30)
        peers = [(peer, address) for peer, address in self._file if peer != node.id]
        node.own, node.reachable, node.suspended, node.life = own, True, False, node.life + 1
        # Two listed nodes may be one node's namesakes: the file of a namesake is that of whom it mimics.
        node.membership = self._make(own, peers, timing=self.timing, now_ms=self.now_ms, path="cluster.toml")
        node.wake_at_ms = -1
        self._wake(node, self.now_ms)

    def namesake(self, key: int, of: int) -> None:
        """One more machine, whose node claims the id of another one."""
        self.nodes[key] = SimulatedNode(key, of, f"10.0.0.{key}:7946")
        self.start(key)

    def kill(self, key: int) -> None:
        """The process ends; its machine refuses connections from now on."""
        node = self.nodes[key]
        node.membership, node.own, node.suspended, node.waiting = None, None, False, []

    def vanish(self, key: int) -> None:
        """The machine is gone: nothing refuses, nothing answers."""
        self.kill(key)
        self.nodes[key].reachable = False

    def suspend(self, key: int) -> None:
        self.nodes[key].suspended = True

    def resume(self, key: int) -> None:
        node = self.nodes[key]
        node.suspended = False
        waiting, node.waiting = node.waiting, []
        for action in waiting:
            action()
        if node.membership is not None:
            self._wake(node, self.now_ms)

    def cut(self, key: int, way: str) -> None:
        """Cuts a node off: what it says (`out`), what it is told (`in`), or both."""
        for other in self.nodes:
            if way in ("out", "both"):
                self.cuts.add((key, other))
            if way in ("in", "both"):
                self.cuts.add((other, key))

    def heal(self) -> None:
        self.cuts.clear()

    # What is seen.

    def view(self, key: int) -> dict[int, Member]:
        membership = self.nodes[key].membership
        assert membership is not None
        return {member.id: member for member in membership.members()}

    def quorum(self, key: int) -> Quorum:
        membership = self.nodes[key].membership
        assert membership is not None
        return membership.quorum()

    def running(self) -> list[int]:
        return [key for key, node in self.nodes.items() if node.membership is not None and not node.suspended]

    # Time.

    def advance(self, ms: int, *, until: Callable[[], bool] | None = None) -> bool:
        """Runs for `ms`, or until something holds; that is looked at every LOOK_MS."""
        end_ms, look_ms = self.now_ms + ms, self.now_ms
        while self._heap and self._heap[0][0] <= end_ms:
            self.now_ms, _, action = heapq.heappop(self._heap)
            action()
            if until is not None and self.now_ms >= look_ms:
                look_ms = self.now_ms + LOOK_MS
                if until():
                    return True
        self.now_ms = end_ms
        return until is not None and until()

    def _at(self, at_ms: int, action: Callable[[], None]) -> None:
        self._events += 1
        heapq.heappush(self._heap, (at_ms, self._events, action))

    def _on(self, node: SimulatedNode, action: Callable[[Static], None]) -> Callable[[], None]:
        """An action of this life of a node; while it is suspended it waits."""
        life = node.life

        def act() -> None:
            if node.life != life or node.membership is None:
                return
            if node.suspended:
                node.waiting.append(act)
            else:
                action(node.membership)

        return act

    def _wake(self, node: SimulatedNode, at_ms: int) -> None:
        if node.wake_at_ms > self.now_ms and node.wake_at_ms <= at_ms:
            return
        node.wake_at_ms = at_ms

        def wake(membership: Static) -> None:
            if node.wake_at_ms > self.now_ms:
                return  # an earlier one was asked for since
            for ask in membership.due(self.now_ms):
                self._ask(node, ask)
            # A machine's scheduler is never exact.
            node.wake_at_ms = -1
            self._wake(node, max(membership.next_ms(), self.now_ms) + self._random.randrange(1, 4))

        self._at(at_ms, self._on(node, wake))

    # The network.

    def _ask(self, asker: SimulatedNode, ask: Ask) -> None:
        done: list[bool] = []

        def outcome(action: Callable[[Static], None]) -> Callable[[], None]:
            def once(membership: Static) -> None:
                if not done:
                    done.append(True)
                    action(membership)
                    self._wake(asker, max(membership.next_ms(), self.now_ms))

            return self._on(asker, once)

        self._at(
            self.now_ms + self.timing.ask_ms, outcome(lambda found: found.missed(ask, "no answer in time", self.now_ms))
        )
        own, wanted = asker.own, asker.membership.looking_for() if asker.membership else []
        target = self._machine(ask.address)
        if own is None or target is None or not self._carried(asker.key, target.key, HELLO_BYTES + 8 * len(wanted)):
            return

        def arrive() -> None:
            if not target.reachable:
                return
            if target.membership is None or target.address != ask.address:
                if self._carried(target.key, asker.key, 0):
                    self._at(
                        self._later(), outcome(lambda found: found.refused(ask, "connection refused", self.now_ms))
                    )
                return
            self._on(target, answer)()

        def answer(membership: Static) -> None:
            membership.announced(own, self.now_ms)
            self._wake(target, max(membership.next_ms(), self.now_ms))
            said, told = target.own, membership.whereabouts(wanted)
            assert said is not None

            def hear(found: Static) -> None:
                found.answered(ask, said, self.now_ms)
                for other in told:
                    found.told(other, self.now_ms)

            if self._carried(target.key, asker.key, WELCOME_BYTES + WHERE_BYTES * len(told)):
                self._at(self._later(), outcome(hear))

        self._at(self._later(), arrive)

    def _machine(self, address: str) -> SimulatedNode | None:
        host = address.partition(":")[0]
        return next((node for node in self.nodes.values() if node.address.partition(":")[0] == host), None)

    def _carried(self, source: int, target: int, length: int) -> bool:
        """Whether a message gets through; it costs the sender either way."""
        self.messages += 1
        self.bytes += length
        return (source, target) not in self.cuts and not (self.loss and self._random.random() < self.loss)

    def _later(self) -> int:
        return self.now_ms + 1 + self._random.randrange(self.delay_ms_most)
