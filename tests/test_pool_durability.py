"""`ramster.Pool(durability=...)` over real nodes: different durabilities in one program, a death, and `ramster set`."""

from __future__ import annotations

import faulthandler
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from conftest import DEADLINE_S, NodeUnderTest, ramster, wait_for
from ramster.transport import lines

# Pages that do not compress, four times what may stay here.
PROGRAM = """
import json, random, sys, time, ramster
from ramster.doors import pools
PAGES = 4000
made = {}

def noise(i): return random.Random(i).randbytes(4096)

def make(name, durability): made[name] = ramster.Pool(durability=durability)

def fill(name):
    for i in range(PAGES): assert made[name].put("x", i, noise(i))

def settle():
    before = None
    while True:
        now = pools._shared_engine().snapshot()
        now = None if now["pages_in_transit"] or now["flushes_waiting"] else now["remote_bytes"]
        if now is not None and now == before: return now
        before = now
        time.sleep(0.1)

def check(name):
    lost = 0
    for i in range(PAGES):
        try: assert made[name].get("x", i) == noise(i), i
        except ramster.LostError: lost += 1
    return lost

for line in sys.stdin: print(json.dumps(eval(line)), flush=True)
"""


class Program:
    """Evaluates what it is told, one line an answer. Ends with the test."""

    def __init__(self, configure: str) -> None:
        code = PROGRAM.replace("made = {}", f"made = {{}}\nramster.configure(local='4M', {configure})")
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate(timeout=DEADLINE_S)

    def do(self, expression: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"{expression}: the program has ended"
        return json.loads(line)


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    """A program that hangs is found by faulthandler, with its stacks."""
    faulthandler.dump_traceback_later(2 * DEADLINE_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def foreign_bytes(nodes: list[NodeUnderTest]) -> int:
    found = [lines.ask(str(node.socket), {"type": "status"}, deadline_ms=5000)["nodes"][0] for node in nodes]
    return sum(int(node["foreign_bytes"]) for node in found)


def wait_held(nodes: list[NodeUnderTest], remote_bytes: int, copies: int) -> None:
    """Beside the pages holders keep some bytes for finding each."""
    low, high = copies * remote_bytes, (copies + 0.3) * remote_bytes
    wait_for(
        lambda: low <= foreign_bytes(nodes) <= high, f"{copies} copies of {remote_bytes} bytes at the nodes", DEADLINE_S
    )


def test_a_pool_with_two_copies_outlives_a_node_and_one_without_loses_exactly_what_was_there(
    start_node: Callable[..., NodeUnderTest],
) -> None:
    nodes = [start_node(number) for number in (1, 2, 3)]
    peers = [node.address for node in nodes]
    with Program(f"peers={peers}, durability='none'") as program:
        program.do("make('safe', 'copies=2')")
        program.do("make('plain', None)")
        program.do("fill('safe')")
        wait_held(nodes, program.do("settle()"), 2)
        program.do("fill('plain')")
        program.do("settle()")
        nodes.pop().kill()
        assert program.do("check('safe')") == 0
        lost = program.do("check('plain')")
        assert lost > 0
        # Two copies again of the one, and nothing more is lost of the other.
        wait_for(lambda: program.do("pools._shared_engine().snapshot()['pages_lost']") == lost, "the same once more")
        assert program.do("check('plain')") == lost
        program.do("made['plain'].close()")
        wait_held(nodes, program.do("settle()"), 2)
        nodes.pop().kill()
        assert program.do("check('safe')") == 0


def test_a_new_durability_of_the_machine_is_for_pools_without_one_of_their_own(
    start_node: Callable[..., NodeUnderTest],
) -> None:
    holders = [start_node(number) for number in (2, 3)]
    home = start_node(1, offer="64M", peers={node.number: node.address for node in holders})
    with Program(f"node={str(home.socket)!r}") as program:
        for durability, copies in (("none", {None: 1, "copies=2": 2}), ("copies=2", {None: 2, "none": 1})):
            answer = ramster("set", "durability", durability, "--node", str(home.socket))
            assert answer.returncode == 0, answer.stderr
            for own, count in copies.items():
                program.do(f"make('one', {own!r})")
                wait_for(
                    lambda: len(program.do("pools._shared_engine().snapshot()['holders']")) >= 2, "the peers known"
                )
                program.do("fill('one')")
                wait_held(holders, program.do("settle()"), count)
                assert program.do("check('one')") == 0
                program.do("made['one'].close()")
                wait_for(lambda: foreign_bytes(holders) == 0, "the closed pool's pages gone", DEADLINE_S)


@pytest.mark.parametrize(
    ("durability", "words"),
    [
        ("copies=9", "durability: 'copies=9' is not known; write auto, none, disk, copies=1 to copies=3"),
        ("ec=1+1", "durability: 'ec=1+1' is no code"),
        ("disk", "durability: disk needs a directory; name it with ramster.configure(spill=...)"),
    ],
)
def test_a_durability_that_cannot_be_is_told_in_one_line(durability: str, words: str) -> None:
    code = f"""
import ramster
ramster.configure(local="64M")
try: ramster.Pool(durability={durability!r})
except ramster.ConfigError as error: assert {words!r} in str(error) and "\\n" not in str(error), error
else: raise SystemExit("accepted")
assert ramster.Pool().put("x", 0, bytes(4096))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=DEADLINE_S, check=False)
    assert (answer.returncode, answer.stderr) == (0, b""), answer.stderr.decode()


def test_a_pool_with_a_copy_on_disk_outlives_its_only_peer(
    start_node: Callable[..., NodeUnderTest], tmp_path: Path
) -> None:
    node = start_node(1)
    with Program(f"peers=[{node.address!r}], spill={str(tmp_path)!r}, durability='none'") as program:
        program.do("make('safe', 'disk')")
        program.do("make('plain', None)")
        program.do("fill('safe')")
        program.do("fill('plain')")
        program.do("settle()")
        assert foreign_bytes([node]) > 0
        node.kill()
        assert program.do("check('safe')") == 0
        assert program.do("check('plain')") > 0
