"""Races over many rounds: each repeats for `--soak-seconds` with a new seed, and prints it. The forced ones, one by
one, are Rust tests.

Not: programs of their own (`test_programs`). One round is short; a wrong byte or a hang ends the run.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from conftest import DEADLINE_S, NodeUnderTest, under_ramster

# Writers and readers on neighbouring words of the same pages, while every page comes and goes.
THREADS = """
import sys, threading, random, mmap, numpy as np
seed = int(sys.argv[1])
pages, threads, rounds = 6000, 4, 6
memory = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
words = np.frombuffer(memory, np.uint64).reshape(pages, 512)
wrong = []
def work(own):
    made = np.random.default_rng([seed, own])
    column = words[:, own]
    mine = np.zeros(pages, np.uint64)
    for _ in range(rounds):
        order = made.permutation(pages)
        for part in np.array_split(order, 60):
            if (column[part] != mine[part]).any(): wrong.append(own)
            mine[part] = made.integers(0, 1 << 60, len(part), np.uint64)
            column[part] = mine[part]
crew = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
for t in crew: t.start()
for t in crew: t.join()
sys.exit(1 if wrong else 0)
"""

# Mappings that are made, cut, moved, emptied and forgotten while other threads do the same.
MAPPINGS = """
import sys, threading, random, mmap
def work(own):
    made = random.Random(f"{sys.argv[1]} {own}")
    held = []
    for step in range(400):
        what = made.random()
        if what < 0.35 or not held:
            pages = made.randrange(40, 400)
            area = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            marks = {made.randrange(pages): made.randbytes(16) for _ in range(60)}
            for page, mark in marks.items(): area[page * 4096 + 100 : page * 4096 + 116] = mark
            held.append((area, marks))
        elif what < 0.7:
            area, marks = made.choice(held)
            for page, mark in marks.items():
                if area[page * 4096 + 100 : page * 4096 + 116] != mark: raise SystemExit(1)
        elif what < 0.8:
            area, marks = made.choice(held)
            area.resize(len(area) + 4096 * made.randrange(1, 300))
        elif what < 0.9:
            area, marks = made.choice(held)
            page = made.randrange(len(area) // 4096)
            area.madvise(mmap.MADV_DONTNEED, page * 4096, 4096)
            marks.pop(page, None)
            if area[page * 4096 + 100] != 0: raise SystemExit(2)
        else:
            area, _ = held.pop(made.randrange(len(held)))
            area.close()
def guarded(own):
    try: work(own)
    except BaseException as error: failed.append(repr(error))
failed = []
crew = [threading.Thread(target=guarded, args=(n,)) for n in range(3)]
for t in crew: t.start()
for t in crew: t.join()
sys.exit(str(failed) if failed else 0)
"""

# Children that read what their parent had at the fork, while the parent writes and its pages come and go.
FORKS = """
import os, sys, mmap, random
made = random.Random(sys.argv[1])
pages = 4000
memory = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
def write(value):
    for page in range(pages): memory[page * 4096 : page * 4096 + 8] = (value * pages + page).to_bytes(8, "little")
def check(value):
    order = list(range(pages)); made.shuffle(order)
    return all(memory[p * 4096 : p * 4096 + 8] == (value * pages + p).to_bytes(8, "little") for p in order)
write(0)
for value in range(4):
    child = os.fork()
    if child == 0:
        ok = check(value)
        write(99)
        os._exit(0 if ok and check(99) else 1)
    write(value + 1)
    if os.waitpid(child, 0)[1]: sys.exit("the child saw something else")
    if not check(value + 1): sys.exit("the parent saw something else")
"""


@pytest.mark.timeout(0)
@pytest.mark.parametrize("peers", ["alone", "with a peer"])
@pytest.mark.parametrize("code", [THREADS, MAPPINGS, FORKS], ids=["threads", "mappings", "forks"])
def test_race(request: pytest.FixtureRequest, start_node: Callable[..., NodeUnderTest], code: str, peers: str) -> None:
    flags = ("--peers", start_node(2).address) if peers == "with a peer" else ()
    end = time.monotonic() + request.config.getoption("--soak-seconds")
    rounds = 0
    while time.monotonic() < end or rounds == 0:
        seed = str(random.randrange(1 << 32))
        print("seed", seed)
        try:
            answer = under_ramster([sys.executable, "-c", code, seed], local="8M", flags=flags, timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"hangs with seed {seed} in round {rounds}")
        assert answer.returncode == 0, f"seed {seed}: {answer.stderr.decode()}"
        rounds += 1
