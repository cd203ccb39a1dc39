"""The pager of this Python process: configured once, started by the first thing that needs it.

Under `ramster run` the preload library's pager is already here; then nothing is started, and plain anonymous memory is managed.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from ramster import _native
from ramster.doors import options
from ramster.errors import ConfigError

_lock = threading.Lock()
_wishes = options.Wishes(prefix="")
_started: dict[str, Any] | None = None


def configure(
    *,
    local: str | int | None = None,
    resident: str | int | None = None,
    peers: str | list[str] | None = None,
    spill: str | None = None,
    durability: str | None = None,
    node: str | None = None,
    config: str | None = None,
) -> None:
    """Says how much of this machine's RAM managed memory may use, and where the rest goes. Call it before the first array.

    local: bytes, or a size like `512M`, `50%` (of RAM) or `auto` (the default: most of what this process may still take),
        for resident and compressed pages together.
    resident: the part of it for uncompressed pages; by default the pager divides.
    peers: addresses of nodes, `["127.0.0.1:7946", ...]` or one string with commas.
    spill: a directory on disk for what fits nowhere else.
    durability: `copies=2` or `copies=3` (on different nodes), `disk` (a copy in `spill` too), `none` (one copy), or `auto`
        (the default: two copies where there are two peers, otherwise disk if `spill` is given); or `ec=K+M`, such as
        `ec=2+1`: K data and M parity shards of each page, 2 <= K, 1 <= M, K + M <= 6, each on a node of its own.
    node: the Unix socket of the local node, which then supplies the peers.
    config: a TOML file with `[run]` and `[[peers]]`; arguments win over it.

    Raises ConfigError for what cannot be used, and when managed memory is in use already.
    """
    global _wishes
    wishes = options.Wishes(
        local=_text(local),
        resident=_text(resident),
        peers=",".join(peers) if isinstance(peers, list) else peers,
        spill=spill,
        durability=durability,
        node=node,
        config=config,
        prefix="",
    )
    with _lock:
        if preloaded():
            raise ConfigError(
                "configure: this program runs under `ramster run`, which is configured by its flags; set them there"
            )
        if _started is not None:
            raise ConfigError(
                "configure: managed memory is in use already; call ramster.configure() before the first array or pool"
            )
        options.build(wishes, program=_program())  # the error belongs to this call, not to the first array
        _wishes = wishes


def preloaded() -> bool:
    """Whether the preload library's pager runs in this process."""
    return bool(_native.preload_active())


def start() -> None:
    """Starts the pager unless it runs. Raises PrivilegeError or StartError with the cure."""
    with _lock:
        _start()


def engine_options() -> dict[str, Any]:
    """The options for an engine of this process (pools), as configured; managed memory counts as in use from now on."""
    global _started
    with _lock:
        if _started is None:
            _started = options.build(_wishes, program=_program())
        return dict(_started)


def has_spill() -> bool:
    """Whether a directory on disk is configured."""
    with _lock:
        found = _started if _started is not None else options.build(_wishes, program=_program())
    return "spill_dir" in found


def stats() -> dict[str, int]:
    """What the pager of this process has done and holds: counters since its start, and bytes now.

    Fields as in `ramster run --stats` (`faults`, `pages_out`, `bytes_resident`, ...). All zero before the first array.
    """
    if not preloaded() and not _native.pager_running():
        return dict.fromkeys(_native.STAT_FIELDS, 0)
    return dict(_native.pager_stats())


def _start() -> None:
    global _started
    if preloaded() or _native.pager_running():
        return
    if _started is None:
        _started = options.build(_wishes, program=_program())
    _native.pager_start(_started)


def _text(size: str | int | None) -> str | None:
    return str(size) if isinstance(size, int) else size


def _program() -> str:
    return sys.argv[0] if sys.argv and sys.argv[0] else "python"
