"""Ports for tests: free ones, below those that the kernel gives to anybody who connects, so that nobody else takes one before
the test uses it."""

from __future__ import annotations

import itertools
import os
import socket

# Tests run in several processes, each with ports of its own. Where the kernel begins to give ports away by default: 32768.
_FIRST, _COUNT, _WORKERS = 12_000, 2_000, 10
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_next = itertools.cycle(range(_FIRST + _worker * _COUNT, _FIRST + (_worker + 1) * _COUNT))


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 on which nobody listens. Each is given once in 2,000."""
    found: list[int] = []
    for port in itertools.islice(_next, _COUNT):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"{count} free ports of 127.0.0.1 between {_FIRST} and {_FIRST + _WORKERS * _COUNT}: there are none")


def free_address() -> str:
    """A port of its own, for who must come back where it was, or where nobody is to be."""
    return f"127.0.0.1:{free_ports(1)[0]}"
