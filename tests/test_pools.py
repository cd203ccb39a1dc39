"""`ramster.Pool` and `ramster.Cache`, compared with a plain dict."""

import subprocess
import sys

import pytest

from conftest import DEADLINE_S

HEAD = """
import random, ramster
from ramster.doors.pools import object_id
def page(i): return (b"%08d " % i) * 455 + b"!"
"""


def run(code: str, **environ: str) -> None:
    answer = subprocess.run([sys.executable, "-c", HEAD + code], capture_output=True, timeout=DEADLINE_S, check=False)
    assert (answer.returncode, answer.stderr) == (0, b""), answer.stderr.decode()


def test_a_pool_answers_like_a_dict() -> None:
    run("""
ramster.configure(local="64M")
seed = random.randrange(1 << 32); print("seed", seed); made = random.Random(seed)
with ramster.Pool() as pool:
    known = {}
    for step in range(20000):
        name, index = made.randrange(5), made.randrange(300)
        what = made.random()
        if what < 0.5:
            data = page(made.randrange(1 << 20))
            assert pool.put(name, index, data); known[name, index] = data
        elif what < 0.9:
            assert pool.get(name, index) == known.get((name, index)), (seed, step)
        elif what < 0.95:
            assert pool.get(name, index, keep=False) == known.pop((name, index), None)
        elif what < 0.999:
            pool.flush(name, index); known.pop((name, index), None)
        else:
            pool.flush_object(name); known = {k: v for k, v in known.items() if k[0] != name}
""")


def test_a_cache_gives_a_page_once_and_forgets_the_oldest_when_full() -> None:
    run("""
ramster.configure(local="16M")
with ramster.Cache() as cache:
    cache.put("film", 7, page(7))
    assert cache.get("film", 7) == page(7)
    assert cache.get("film", 7) is None
    noise = random.Random(1)
    for i in range(8000):
        assert cache.put("noise", i, noise.randbytes(4096))
    found = [cache.get("noise", i) is not None for i in range(8000)]
    assert 1000 < sum(found) < 8000, sum(found)
    assert found[7999] and not found[0]
    assert not any(cache.get("noise", i) for i in range(8000))
""")


def test_a_full_pool_refuses_and_keeps_no_older_copy() -> None:
    run("""
ramster.configure(local="16M")
noise = random.Random(1)
with ramster.Pool() as pool:
    pages = [noise.randbytes(4096) for _ in range(8000)]
    kept = [pool.put("x", i, data) for i, data in enumerate(pages)]
    assert not all(kept) and sum(kept) > 1000
    for i in range(8000):
        assert pool.get("x", i) == (pages[i] if kept[i] else None), i
    first = kept.index(True)
    other = noise.randbytes(4096)
    if not pool.put("x", first, other):
        assert pool.get("x", first) is None
""")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("pool.put('a', 0, b'short')", "exactly 4096"),
        ("pool.put('a', -1, page(1))", "out of range"),
        ("pool.put('a', 1 << 32, page(1))", "out of range"),
        ("pool.put(-1, 0, page(1))", "192 bits"),
        ("pool.put(b'abc', 0, page(1))", "exactly 24"),
        ("(pool.close(), pool.get('a', 0))", "closed"),
    ],
)
def test_wrong_arguments_are_told(call: str, words: str) -> None:
    run(f"""
pool = ramster.Pool()
try: {call}
except ValueError as error: assert {words!r} in str(error), error
else: raise SystemExit("accepted")
""")


def test_names_map_to_object_ids() -> None:
    run("""
assert object_id(1) == b"\\1" + bytes(23)
assert object_id(bytes(24)) == bytes(24)
assert len(object_id("a long name " * 10)) == 24 and object_id("a") != object_id("b")
""")
