"""What a node tells its clients: decisions from a snapshot, as data with a reason. The engine obeys the last ones that it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Below this share of available RAM the kernel starts to reclaim on its own, in the middle of a program's page fault.
LOW_PERCENT = 5
# Above this share the pressure is over. The gap keeps the decision from flapping with every sample.
HIGH_PERCENT = 10
# More than any limit: the client's own applies again. An absent key would mean "as it was", so there must be a figure.
RELEASED_BYTES = 1 << 62
# Never squeeze a client below this: the frames in flight need it.
LEAST_RESIDENT_BYTES = 16 << 20


@dataclass(frozen=True)
class MachineSnapshot:
    """What the node's machine has, in bytes."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True)
class ClientSnapshot:
    """One client as its last statistics tell. `held_bytes` is the resident limit that this node set before, or None."""

    pid: int
    resident_bytes: int
    held_bytes: int | None


@dataclass(frozen=True)
class Directive:
    """What one client is to do. `resident_bytes` None: as it was. `remotify`: whether cold pages may go to peers.

    `repatriate`: whether pages at peers may come home by themselves, while the client's store has room.
    """

    pid: int
    resident_bytes: int | None
    remotify: bool
    repatriate: bool
    reason: str

    def message(self) -> dict[str, Any]:
        """As the wire to the client wants it: keys that say nothing are left out."""
        directives: dict[str, Any] = {"remotify": self.remotify, "repatriate": self.repatriate}
        if self.resident_bytes is not None:
            directives["resident_bytes"] = self.resident_bytes
        return directives


def greet(pid: int, *, peers: int, quorum: bool) -> Directive:
    """For a client that has just come, or when the cluster has changed. Without quorum nothing is sent to anybody."""
    reason = f"{peers} peers take pages" if peers else "no peer to send pages to"
    if not quorum:
        reason = "this node has no quorum"
    return Directive(pid, None, peers > 0 and quorum, True, reason)


def decide(machine: MachineSnapshot, clients: list[ClientSnapshot], *, peers: int, quorum: bool) -> list[Directive]:
    """Only what has to change, and nothing while the machine is neither short of memory nor over it.

    Short: every client gives up its part of what is missing, by its resident size, and nothing comes home by itself.
    Over: all limits go back, and pages may.
    """
    remotify = peers > 0 and quorum
    low = machine.total_bytes * LOW_PERCENT // 100
    high = machine.total_bytes * HIGH_PERCENT // 100
    if machine.available_bytes >= high:
        return [
            Directive(client.pid, RELEASED_BYTES, remotify, True, "the machine has room again")
            for client in clients
            if client.held_bytes is not None
        ]
    if machine.available_bytes >= low:
        return []
    missing = high - machine.available_bytes
    resident = sum(client.resident_bytes for client in clients)
    found = []
    for client in clients:
        share = missing * client.resident_bytes // resident if resident else 0
        target = max(client.resident_bytes - share, LEAST_RESIDENT_BYTES)
        if target < client.resident_bytes and target != client.held_bytes:
            reason = f"the machine has {machine.available_bytes >> 20} MiB left, less than {LOW_PERCENT} % of its RAM"
            found.append(Directive(client.pid, target, remotify, False, reason))
    return found
