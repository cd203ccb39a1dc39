"""Managed NumPy arrays. Each test runs in a process of its own with a small local limit, since a process has one pager."""

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import DEADLINE_S, under_ramster

SOFT_LIMIT_LINE = (
    b"ramster: the local limit is exceeded because there is nowhere to put pages: "
    b"name peers (--peers) or a directory (--spill), or raise --local\n"
)

HEAD = """
import gc, os, pickle, sys, threading, numpy as np, ramster
from ramster.errors import *
MIB = 1 << 20
if os.environ.get("LIMIT"):
    ramster.configure(local=os.environ["LIMIT"])
"""


@pytest.fixture(params=["own pager", "under ramster run"])
def check(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    """Runs code with a pager of its own, and under the preload library, where plain anonymous memory is managed."""

    def run(code: str, limit: str = "32M", environ: dict[str, str] | None = None) -> None:
        import os

        command = [sys.executable, "-c", HEAD + code]
        if request.param == "own pager":
            environ = {**os.environ, "LIMIT": limit, **(environ or {})}
            answer = subprocess.run(
                command, capture_output=True, timeout=DEADLINE_S, env=environ, cwd=tmp_path, check=False
            )
        else:
            answer = under_ramster(command, local=limit, cwd=tmp_path)
        assert answer.returncode == 0, answer.stderr.decode()
        # There is no peer here: that the limit is exceeded is said once by each process, and nothing else.
        assert set(answer.stderr.splitlines(keepends=True)) <= {SOFT_LIMIT_LINE}

    return run


def test_an_array_several_times_its_limit_keeps_every_element(check) -> None:  # type: ignore[no-untyped-def]
    check("""
a = ramster.empty((16, MIB), np.int64)      # 128 MiB
assert type(a) is np.ndarray and a.flags.c_contiguous and a.flags.writeable
for i in range(16):
    a[i] = np.arange(MIB) * (i + 1)
assert all((a[i] == np.arange(MIB) * (i + 1)).all() for i in range(16))
stats = ramster.stats()
assert stats["pages_out"] > 10000 and stats["faults"] > 0, stats
assert stats["bytes_resident"] <= 36 * MIB, stats
""")


def test_zeros_are_zero_also_after_memory_was_used_and_given_back(check) -> None:  # type: ignore[no-untyped-def]
    check("""
for _ in range(4):
    a = ramster.zeros(6 * MIB)
    assert not a.any()
    a[:] = 3.5
    del a
""")


def test_shapes_orders_and_dtypes_are_numpys(check) -> None:  # type: ignore[no-untyped-def]
    check("""
for shape in (5, (3, 4), (2, 3, 4), (), 0, (0, 7), np.int64(9), [2, 2]):
    for order in "CF":
        for kind in (np.uint8, "f4", complex, "M8[s]", "S7", [("a", "i4"), ("b", "f8", 3)]):
            a, b = ramster.zeros(shape, kind, order), np.zeros(shape, kind, order)
            assert a.shape == b.shape and a.dtype == b.dtype and a.strides == b.strides, (shape, order, kind)
            assert a.tobytes() == b.tobytes()
b = np.arange(24.0).reshape(2, 3, 4)
assert (ramster.array(b.tolist()) == b).all()
assert ramster.array(b, order="F").flags.f_contiguous
assert ramster.array([1, 2], dtype="i2").dtype == np.int16
for bad, error in (((-1,), ValueError), ((1 << 60,), (MemoryError, ValueError, OverflowError))):
    try: ramster.empty(bad)
    except error: pass
    else: raise SystemExit(bad)
try: ramster.empty(3, object)
except TypeError as error: assert "object" in str(error)
else: raise SystemExit("object array")
""")


def test_pickling_slicing_and_views_work_and_views_keep_the_memory(check) -> None:  # type: ignore[no-untyped-def]
    check("""
a = ramster.empty((64, 65536))              # 32 MiB
a[:] = np.arange(64)[:, None]
copy = pickle.loads(pickle.dumps(a[3:5, ::1000]))
assert (copy == a[3:5, ::1000]).all()
view = a[10].reshape(256, 256).T[5:]
del a; gc.collect()
other = ramster.empty(8 * MIB); other[:] = 7
assert (view == 10).all()
""")


def test_memory_is_given_back_when_the_last_view_dies(check) -> None:  # type: ignore[no-untyped-def]
    check("""
def used():                                 # all of this process, whatever the pager says
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def fill():
    a = ramster.empty(8 * MIB)              # 64 MiB
    a[:] = np.random.default_rng(1).random(8 * MIB)
    return used()
filled = [fill() for _ in range(6)]
gc.collect()
assert used() < min(filled) - 30 * MIB, (used(), filled)
assert max(filled) < min(filled) + 30 * MIB, filled
""")


def test_from_file_reads_what_is_there_and_refuses_what_is_not(check) -> None:  # type: ignore[no-untyped-def]
    check("""
data = np.random.default_rng(3).integers(0, 255, 50 * MIB, np.uint8)
data.tofile("f")
assert (ramster.from_file("f") == data).all()
a = ramster.from_file("f", "<i4", (100, 5), offset=8, order="F")
assert (a == np.frombuffer(data.tobytes(), "<i4", 500, 8).reshape((100, 5), order="F")).all()
assert ramster.from_file("f", offset=50 * MIB).size == 0
for arguments in (dict(shape=51 * MIB), dict(offset=60 * MIB), dict(offset=-1)):
    try: ramster.from_file("f", **arguments)
    except ValueError as error: assert "f" in str(error)
    else: raise SystemExit(arguments)
try: ramster.from_file("nowhere")
except FileNotFoundError: pass
""")


def test_numpys_own_results_are_managed_within_the_context_and_live_after_it(check) -> None:  # type: ignore[no-untyped-def]
    check("""
with ramster.numpy():
    with ramster.numpy():
        a = np.arange(8 * MIB)              # 64 MiB
    b = a * 2
    c = np.append(b, 5); c.resize(9 * MIB, refcheck=False)
small = np.ones(10)
assert (b == np.arange(8 * MIB) * 2).all() and c[8 * MIB] == 5 and not c[8 * MIB + 1:].any()
assert ramster.stats()["pages_out"] > 1000, ramster.stats()
del a, b, c
d = np.ones(8 * MIB); del d
""")


def test_a_thread_that_faults_while_it_holds_the_gil_never_waits_for_it(check) -> None:  # type: ignore[no-untyped-def]
    check("""
import faulthandler, random
faulthandler.dump_traceback_later(90, exit=True)
seed = random.randrange(1 << 32); print("seed", seed)
a = ramster.empty(12 * MIB)                 # 96 MiB
a[:] = np.arange(12 * MIB)
wrong = []
def visit(number):
    made = random.Random(seed + number)
    for _ in range(3000):
        i = made.randrange(12 * MIB)
        if a[i] != i: wrong.append(i)       # scalar access: the GIL is held over the fault
threads = [threading.Thread(target=visit, args=(n,)) for n in range(6)]
for t in threads: t.start()
for t in threads: t.join()
assert not wrong
assert ramster.stats()["faults"] > 1000, ramster.stats()
""")


def test_multiprocessing_with_fork_over_a_large_array(check) -> None:  # type: ignore[no-untyped-def]
    check("""
import multiprocessing, time
a = ramster.empty((96, 131072))             # 96 MiB
a[:] = np.arange(96)[:, None]
def total(row):
    a[row, :10] = -1                        # the child's own from here on
    return row, float(a[row, 10:].sum()), float(a[row, :10].sum())
with multiprocessing.get_context("fork").Pool(3) as pool:
    found = pool.map_async(total, range(96), chunksize=4).get(100)
assert found == [(row, row * 131062.0, -10.0) for row in range(96)]
assert (a == np.arange(96)[:, None]).all()
""")


def test_a_child_may_go_on_and_allocate_while_its_parent_changes_everything(check) -> None:  # type: ignore[no-untyped-def]
    check("""
a = ramster.empty(8 * MIB); a[:] = np.arange(8 * MIB)
r, w = os.pipe()
child = os.fork()
if child == 0:
    os.read(r, 1)
    b = ramster.empty(8 * MIB); b[:] = a + 1
    ok = (a == np.arange(8 * MIB)).all() and (b == np.arange(1, 8 * MIB + 1)).all()
    os._exit(0 if ok else 9)
a[:] = -5
os.write(w, b"x")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert (a == -5).all()
""")
