"""Machines for the chaos suite: network namespaces on one bridge, each with a node of one cluster in it, as `ramster init`
and `join` make them. Everything is removed again, by name and by process id.

Not: what happens to them (`test_chaos`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from conftest import RAMSTER, wait_for

PAGE_PORT = 7946


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


class Network:
    """A bridge in a namespace of its own; nothing of it touches the machine's own network."""

    def __init__(self) -> None:
        self.prefix = f"rmchaos{os.getpid()}"
        self.hub = f"{self.prefix}-hub"
        self.made: list[str] = []
        self._namespace(self.hub)
        ip("-n", self.hub, "link", "add", "name", "bridge", "type", "bridge")
        ip("-n", self.hub, "link", "set", "bridge", "up")

    def _namespace(self, name: str) -> None:
        ip("netns", "add", name)
        self.made.append(name)

    def attach(self, number: int) -> str:
        """A namespace with the address `10.77.0.number`; returns its name."""
        name = f"{self.prefix}-{number}"
        self._namespace(name)
        ip("-n", self.hub, "link", "add", "name", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("-n", self.hub, "link", "set", f"p{number}", "master", "bridge", "up")
        ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")
        return name

    def cut(self, number: int) -> None:
        """Nothing reaches the machine, and nothing leaves it."""
        ip("-n", self.hub, "link", "set", f"p{number}", "down")

    def mend(self, number: int) -> None:
        """The opposite of `cut`."""
        ip("-n", self.hub, "link", "set", f"p{number}", "up")

    def mute(self, number: int, towards: int) -> None:
        """What the one says does not reach the other; the other way it does."""
        ip("-n", f"{self.prefix}-{number}", "route", "add", "blackhole", f"10.77.0.{towards}/32")

    def unmute(self, number: int, towards: int) -> None:
        """The opposite of `mute`."""
        ip("-n", f"{self.prefix}-{number}", "route", "del", "blackhole", f"10.77.0.{towards}/32")

    def slow(self, number: int, rate: str) -> None:
        """What the machine sends goes at that rate (tc's words)."""
        words = ["qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "64kb", "latency", "200ms"]
        subprocess.run(["tc", "-n", f"{self.prefix}-{number}", *words], check=True, capture_output=True, timeout=20)

    def unslow(self, number: int) -> None:
        """The opposite of `slow`."""
        words = ["qdisc", "del", "dev", "eth0", "root"]
        subprocess.run(["tc", "-n", f"{self.prefix}-{number}", *words], check=True, capture_output=True, timeout=20)

    def remove(self) -> None:
        for name in reversed(self.made):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=20)


class Machine:
    """One namespace and the node in it."""

    def __init__(self, network: Network, folder: Path, number: int) -> None:
        self.number = number
        self.namespace = network.attach(number)
        self.address = f"10.77.0.{number}"
        self.dir, self.socket, self.log = folder / f"etc{number}", folder / f"{number}.sock", folder / f"{number}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def inside(self, *words: str) -> list[str]:
        """The command in this machine's network."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def command(self, *words: str) -> str:
        answer = subprocess.run(
            self.inside(*RAMSTER, *words), capture_output=True, timeout=60, stdin=subprocess.DEVNULL, check=False
        )
        assert answer.returncode == 0, answer.stderr.decode()
        return answer.stdout.decode()

    def make(self, token: str | None, first: Machine | None, offer: str) -> None:
        flags = ["--dir", str(self.dir), "--listen", f"{self.address}:{PAGE_PORT}", "--offer", offer]
        flags += ["--socket", str(self.socket)]
        if token is None or first is None:
            self.command("init", *flags)
        else:
            self.command("join", token, first.address, *flags)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.inside(*RAMSTER, "node", "--config", str(self.dir / "node.toml")),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for(self._answers, f"node {self.number} serves", seconds=60)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return bool(self.status())
        except (AssertionError, subprocess.TimeoutExpired):
            return False

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("status", "--json", "--node", str(self.socket)))
        return found

    def signal(self, number: signal.Signals) -> None:
        """To the node: `ip netns exec` becomes what it runs, so this is its process."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait_end(self, seconds: float) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)
