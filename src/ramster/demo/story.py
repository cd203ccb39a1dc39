"""The demonstration from beginning to end: text, two nodes, the sort under `ramster run`, the plain sort, the
comparison, the sum.

The sort is the machine's own GNU sort, unmodified, told to hold everything in memory; its local limit is a quarter of its text.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from ramster.config import machine, sizes
from ramster.demo import text
from ramster.demo.nodes import NodeProcess, end_with_parent, stop
from ramster.demo.screen import Moment, Screen
from ramster.errors import RamsterError, StartError, UsageError

# The whole demonstration is to take a minute at most; a machine on which collecting takes longer sorts less.
COLLECT_DEADLINE_S = 10.0
SORT_DEADLINE_S = 600.0
LEAST_DATA_BYTES = 8 << 20
LOCAL_PART = 4
LOOK_EVERY_S = 0.25
COMPARE_BYTES = 1 << 20


@dataclass(frozen=True)
class Sorted:
    """One run of sort: its seconds, and the statistics when it ran under the pager."""

    seconds: float
    stats: dict[str, int]


def main(size: str, *, as_json: bool) -> int:
    """Runs it; returns 0 when every byte was right. Cleans up its processes and files in any case."""
    memory = machine.memory()
    wanted_bytes = sizes.parse(size, of="--size", ram_bytes=memory.ram_bytes)
    if wanted_bytes < LEAST_DATA_BYTES:
        raise UsageError(f"--size: {size} is too little to show anything; write 8M or more")
    if shutil.which("sort") is None:
        raise StartError("demo: there is no sort in PATH; install GNU coreutils")
    _end_tidily()
    with contextlib.ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="ramster-demo-")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        screen = stack.enter_context(Screen(to_stderr=as_json))
        facts = _tell(screen, stack, folder, _affordable(screen, wanted_bytes, memory, folder))
        screen.clear()
        _sum_up(screen, facts)
    if as_json:
        print(json.dumps(facts))
    return 0 if facts["verified"] else 1


def _tell(screen: Screen, stack: contextlib.ExitStack, folder: str, wanted_bytes: int) -> dict[str, Any]:
    source = os.path.join(folder, "text")
    collected = text.collect(source, wanted_bytes, COLLECT_DEADLINE_S)
    if collected.data_bytes < LEAST_DATA_BYTES:
        raise StartError(
            f"demo: only {sizes.show(collected.data_bytes)} of text found under /usr; "
            "install some, like: apt-get install python3-doc"
        )
    less = f" (this machine has no more than that; {sizes.show(wanted_bytes)} were wanted)" if collected.short else ""
    screen.say(
        f"text      {sizes.show(collected.data_bytes)} in {collected.records:,} records from {collected.files:,} files{less}"
    )
    local_bytes = collected.data_bytes // LOCAL_PART // 4096 * 4096

    second = NodeProcess(2, folder, 2 * collected.data_bytes + (256 << 20), {})
    stack.callback(second.stop)
    first = NodeProcess(1, folder, 64 << 20, {2: second.wait_up()})
    stack.callback(first.stop)
    first.wait_up(peers=1)
    screen.say(
        f"nodes     1 (pid {first.pid}, beside the program) and 2 (pid {second.pid}, takes its cold pages), on loopback"
    )

    command = ["sort", "-z", "-S", f"{buffer_kib(collected)}K", "--parallel=1", "-T", folder]
    screen.say(f"program   LC_ALL=C ramster run --local {sizes.show(local_bytes)} -- {' '.join(command[:5])}")
    watch = _Watch(screen, first, collected.data_bytes, local_bytes)
    found = os.path.join(folder, "found")
    paged = _paged_sort(stack, folder, [*command, "-o", found, source], local_bytes, first, watch)
    screen.clear()
    screen.say(f"sorted    in {paged.seconds:.1f} s with {sizes.show(local_bytes)} of RAM")
    plain_seconds, verified = _compare(stack, [*command, source], found)
    screen.say(
        f"compared  with a plain sort in RAM, {plain_seconds:.1f} s: {'every byte is right' if verified else 'THE BYTES DIFFER'}"
    )
    return {
        "verified": verified,
        "data_bytes": collected.data_bytes,
        "local_limit_bytes": local_bytes,
        "pages_remotified": paged.stats.get("pages_remotified", 0),
        "pages_localified": paged.stats.get("pages_localified", 0),
        "seconds": round(paged.seconds, 3),
        "plain_seconds": round(plain_seconds, 3),
        **{
            name: paged.stats.get(name, 0)
            for name in ("faults", "faults_local", "faults_remote", "bytes_resident_max", "bytes_stored_max")
        },
    }


def buffer_kib(collected: text.Collected) -> int:
    """What sort needs to hold all: the text and 32 bytes a record, and some."""
    return (collected.data_bytes + 64 * collected.records + (32 << 20)) >> 10


def _affordable(screen: Screen, wanted_bytes: int, memory: machine.Memory, folder: str) -> int:
    """Less than wanted where RAM (the plain sort, node 2, the file cache) or disk (text, output) would not do."""
    disk_bytes = shutil.disk_usage(folder).free
    affordable = min(wanted_bytes, memory.room_bytes // 4, disk_bytes // 3)
    if affordable < LEAST_DATA_BYTES:
        raise StartError(
            f"demo: {sizes.show(memory.room_bytes)} of RAM and {sizes.show(disk_bytes)} in {folder} are too little; "
            "free some, or set TMPDIR"
        )
    if affordable < wanted_bytes:
        screen.say(f"size      {sizes.show(affordable)}, since this machine has {sizes.show(memory.room_bytes)} of RAM and "
                   f"{sizes.show(disk_bytes)} of disk to spare")  # fmt: skip
    return affordable


class _Watch:
    """Looks at the first node's client, the sort, and shows it."""

    def __init__(self, screen: Screen, node: NodeProcess, data_bytes: int, local_bytes: int) -> None:
        self._screen, self._node = screen, node
        self._data_bytes, self._local_bytes = data_bytes, local_bytes
        self._start = time.monotonic()

    def look(self) -> None:
        status = self._node.status()
        if status is None or not status["clients"]:
            return
        client = status["clients"][-1]
        stats = client["stats"]
        moment = Moment(
            _phase(client["pid"], self._data_bytes), time.monotonic() - self._start, self._data_bytes, self._local_bytes,
            client["resident_bytes"], client["stored_bytes"], client["remote_bytes"],
            stats.get("faults", 0), stats.get("pages_remotified", 0), stats.get("pages_localified", 0),
        )  # fmt: skip
        self._screen.now(moment)


def _phase(pid: int, data_bytes: int) -> str:
    try:
        with open(f"/proc/{pid}/io", encoding="ascii") as stream:
            fields = dict(line.split(": ") for line in stream.read().splitlines())
    except (OSError, ValueError):
        return "sorting"
    if int(fields["rchar"]) < data_bytes:
        return "reading"
    return "writing" if int(fields["wchar"]) > data_bytes // 100 else "sorting"


def _paged_sort(
    stack: contextlib.ExitStack, folder: str, command: list[str], local_bytes: int, node: NodeProcess, watch: _Watch
) -> Sorted:
    stats_path = os.path.join(folder, "stats.json")
    run = [
        sys.executable,
        "-m",
        "ramster",
        "run",
        "--local",
        str(local_bytes),
        "--node",
        node.socket,
        "--stats",
        stats_path,
        "--",
    ]
    errors_path = os.path.join(folder, "errors")
    start = time.monotonic()
    with open(errors_path, "wb") as errors:
        process = subprocess.Popen(
            run + command,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=end_with_parent,
        )
    stack.callback(stop, process)
    while True:
        try:
            code = process.wait(LOOK_EVERY_S)
            break
        except subprocess.TimeoutExpired:
            watch.look()
        if time.monotonic() - start > SORT_DEADLINE_S:
            raise StartError(
                f"demo: the sort took longer than {SORT_DEADLINE_S:.0f} s; try less: ramster demo --size 64M"
            )
    seconds = time.monotonic() - start
    with open(errors_path, encoding="utf-8", errors="replace") as stream:
        words = stream.read().strip().splitlines()
    if code != 0:
        raise StartError(f"demo: the sort ended with {code}: {words[-1] if words else 'it said nothing'}")
    with open(stats_path, encoding="utf-8") as stream:
        return Sorted(seconds, json.load(stream))


def _compare(stack: contextlib.ExitStack, command: list[str], found_path: str) -> tuple[float, bool]:
    """The same sort without the pager, its output compared with the file as it comes: its seconds, and whether all
    bytes are equal.
    """
    start = time.monotonic()
    plain = subprocess.Popen(
        command, env={**os.environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    stack.callback(stop, plain)
    if plain.stdout is None:
        raise RamsterError("demo: the plain sort has no output")
    same = True
    with open(found_path, "rb") as found, plain.stdout as expected:
        while block := expected.read(COMPARE_BYTES):
            same = found.read(len(block)) == block
            if not same:
                break
        same = same and found.read(1) == b""
    return time.monotonic() - start, same and plain.wait() == 0


def _sum_up(screen: Screen, facts: dict[str, Any]) -> None:
    ratio = facts["data_bytes"] / facts["local_limit_bytes"]
    screen.say(
        f"summary   text {ratio:.1f} times its local limit; {facts['faults']:,} faults, "
        f"{facts['faults_local']:,} answered from compressed RAM here, "
        f"{facts['faults_remote']:,} from node 2"
    )
    screen.say(
        f"          {facts['pages_remotified']:,} pages went to node 2, {facts['pages_localified']:,} came back; at most "
        f"{sizes.show(facts['bytes_resident_max'])} resident and {sizes.show(facts['bytes_stored_max'])} compressed here"
    )


def _end_tidily() -> None:
    """SIGTERM and SIGHUP unwind like Ctrl-C, so that processes and files go in any case."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
