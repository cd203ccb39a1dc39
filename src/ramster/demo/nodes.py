"""Starts and stops the two nodes of the demonstration, as processes of their own, and asks them how it goes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any

from ramster.errors import RamsterError, StartError
from ramster.transport import lines

START_DEADLINE_S = 15.0
STOP_DEADLINE_S = 5.0
_prctl = ctypes.CDLL(None).prctl


class NodeProcess:
    """One `ramster node`; its files are in `folder`."""

    def __init__(self, number: int, folder: str, offer_bytes: int, peers: dict[int, str]) -> None:
        self.socket = os.path.join(folder, f"node{number}.sock")
        self._log = os.path.join(folder, f"node{number}.log")
        config = os.path.join(folder, f"node{number}.toml")
        with open(config, "w", encoding="utf-8") as out:
            out.write(
                f'[node]\nid = {number}\nlisten = "127.0.0.1:0"\noffer = "{offer_bytes}"\nsocket = "{self.socket}"\n'
            )
            for peer, address in peers.items():
                out.write(f'\n[[peers]]\nid = {peer}\naddress = "{address}"\n')
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ramster", "node", "--config", config],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=end_with_parent,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def status(self) -> dict[str, Any] | None:
        """What `ramster status` would say, or None when it does not answer."""
        try:
            return lines.ask(self.socket, {"type": "status"}, deadline_ms=2000)
        except (OSError, RamsterError):
            return None

    def wait_up(self, *, peers: int = 0) -> str:
        """Its address, once it serves and `peers` of its peers are up. Raises StartError with its last words."""
        end = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < end and self._process.poll() is None:
            status = self.status()
            if status and sum(node["state"] == "up" for node in status["nodes"]) > peers:
                return str(status["nodes"][0]["address"])
            time.sleep(0.05)
        with open(self._log, encoding="utf-8", errors="replace") as log:
            words = log.read().strip().splitlines()
        raise StartError(f"demo: a node did not start: {words[-1] if words else 'it said nothing'}")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL when that takes too long."""
        stop(self._process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that we started, and waits for it."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_DEADLINE_S)
    if process.poll() is None:
        process.kill()
        process.wait()


def end_with_parent() -> None:
    """In a child before exec: should the demonstration be killed, nothing of it stays behind."""
    _prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
