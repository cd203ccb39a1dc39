"""The clients that are registered with this node, with their last statistics. Plain data; not: the sockets (`daemon`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ramster import _native
from ramster.errors import RefusedError
from ramster.metrics import names
from ramster.policy.directives import ClientSnapshot, Directive

# Every connection costs a descriptor; this is far more than programs on one machine, and below a usual descriptor limit
# of 1024 with peers.
CLIENTS_MAX = 512
PROGRAM_CHARACTERS = 256
BLOCK_CHARACTERS = 64
FIGURE_MAX = (1 << 64) - 1
# What a client says of its spill directory.
DISK_WORDS = ("none", "ok", "hangs", "full", "failed")


@dataclass(eq=False)
class Client:
    """One registered client: a process with an engine in it."""

    pid: int
    client: str
    program: str
    stats: dict[str, int] = field(default_factory=dict)
    held_bytes: int | None = None
    # Which stat block its figures are from; several processes of a tree may share one.
    block: str = ""
    disk: str = "none"

    def hear(self, message: dict[str, Any]) -> dict[str, list[int]]:
        """Takes over the figures of a `stats` message; what is no figure is left out. Returns its histograms."""
        self.stats = {key: value for key, value in message.items() if _is_figure(value)}
        block, histograms = message.get("block"), message.get("histograms")
        self.disk = word if (word := message.get("disk")) in DISK_WORDS else "none"
        self.block = block[:BLOCK_CHARACTERS] if isinstance(block, str) else f"pid {self.pid}"
        if not isinstance(histograms, dict):
            return {}
        return {
            name: words
            for name, words in histograms.items()
            if name in _native.HISTOGRAMS
            and isinstance(words, list)
            and len(words) == len(_native.HISTOGRAMS[name]) + 2
            and all(map(_is_figure, words))
        }

    def snapshot(self) -> ClientSnapshot:
        """For `policy`."""
        return ClientSnapshot(self.pid, self.stats.get("bytes_resident", 0), self.held_bytes)

    def as_dict(self) -> dict[str, Any]:
        """As `ramster status --json` prints it."""
        figures = {key: self.stats.get(field_name, 0) for key, field_name in names.CLIENT_FIELDS.items()}
        names_it = {"pid": self.pid, "client": self.client, "program": self.program}
        return {**names_it, **figures, "disk": self.disk, "stats": self.stats}


def _is_figure(found: object) -> bool:
    return type(found) is int and 0 <= found <= FIGURE_MAX


def register(message: dict[str, Any]) -> Client:
    """The client that a `register` message introduces. Raises RefusedError when it is not one."""
    pid, client, program = message.get("pid"), message.get("client"), message.get("program", "")
    if (
        message.get("type") != "register"
        or not isinstance(pid, int)
        or not isinstance(client, str)
        or not isinstance(program, str)
    ):
        raise RefusedError("the first message must be register, with pid, client and program, or status")
    return Client(pid, client[:64], program[:PROGRAM_CHARACTERS])


def view(
    peers: list[dict[str, Any]],
    directive: Directive,
    credentials: dict[str, Any] | None = None,
    *,
    silent: list[int] | None = None,
) -> dict[str, Any]:
    """The message that tells a client where pages may go and what it is to do.

    `credentials`: as whom it goes there. `silent`: ids of the nodes that are not heard from, whose copies of pages that others
    have too are to be made anew; None leaves what was said last.
    """
    directives = directive.message()
    if silent is not None:
        directives["silent"] = silent
    message = {"type": "view", "peers": peers, "directives": directives, "reason": directive.reason}
    return message if credentials is None else {**message, "credentials": credentials}
