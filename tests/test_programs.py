"""Unmodified programs with a fraction of their memory: outputs compared byte for byte with plain runs."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import DEADLINE_S, RAMSTER, need, under_ramster, wait_for
from ports import free_ports

FRAME = """
import numpy as np, pandas as pd, hashlib
rng = np.random.default_rng(7)
rows = 250_000
words = rng.integers(0, 99999, rows).astype(str)
frame = pd.DataFrame({"key": rng.integers(0, 5000, rows), "x": rng.normal(size=rows), "word": words})
print(frame.groupby("key").x.agg(["mean", "max"]).head(20).to_csv())
ordered = frame.sort_values(["word", "x"])
print(hashlib.sha256(ordered.to_csv(index=False).encode()).hexdigest())
print(float(np.linalg.norm(np.sort(rng.normal(size=1_000_000)))))
"""


def compare(
    command: list[str], tmp_path: Path, *, resident: str, least_out: int, given: bytes | None = None
) -> dict[str, int]:
    """Runs it plainly and under ramster: code and both streams are equal, and at least so many pages went out.

    The store has room: with nowhere to put pages ramster would have a line of its own to say.
    """
    plain = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, input=given, check=False)
    assert plain.returncode == 0, plain.stderr
    stats = tmp_path / "stats.json"
    answer = under_ramster(command, local="2G", flags=("--resident", resident), stats=stats, stdin=None, input=given)
    assert answer.returncode == plain.returncode, answer.stderr
    assert answer.stderr == plain.stderr
    assert answer.stdout == plain.stdout
    found: dict[str, int] = json.loads(stats.read_text())
    assert found["pages_out"] >= least_out
    assert found["pages_lost"] == 0
    return found


def words(count: int, seed: int = 5) -> bytes:
    made = random.Random(seed)
    return b"".join(
        b"%x %s\n" % (made.getrandbits(64), b"lorem ipsum dolor " * made.randrange(1, 6)) for _ in range(count)
    )


def test_python_with_numpy_and_pandas(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    compare([sys.executable, "-c", FRAME], tmp_path, resident="64M", least_out=10_000)


def test_gnu_sort(tmp_path: Path) -> None:
    need("sort")
    source = tmp_path / "text"
    source.write_bytes(words(200_000))
    compare(["sort", "-S", "256M", "--parallel=1", str(source)], tmp_path, resident="16M", least_out=5_000)
    compare(["sort", "-S", "256M", "--parallel=2", "-k2", str(source)], tmp_path, resident="16M", least_out=5_000)


def test_sqlite3(tmp_path: Path) -> None:
    need("sqlite3")
    script = b"""
    pragma cache_size=-200000; pragma temp_store=memory;
    create table t(id integer primary key, k text, v real);
    with recursive n(i) as (select 1 union all select i+1 from n where i < 150000)
      insert into t select i, hex(i * 2654435761 % 4294967296) || '-filler-filler-filler', i * 0.5 from n;
    create index by_k on t(k);
    select count(*), min(k), max(k), sum(v) from t;
    select substr(k, 1, 2) p, count(*), avg(v) from t group by p order by p limit 40;
    select a.id, b.id from t a join t b on a.k = b.k where a.id % 5000 = 0;
    """
    compare(["sqlite3", ":memory:"], tmp_path, resident="24M", least_out=1_000, given=script)


def test_gcc(tmp_path: Path) -> None:
    need("gcc")
    source = tmp_path / "big.c"
    functions = "".join(
        f"int f{i}(int a, int b) {{ int r = {i}; for (int j = 0; j < a; j++) r += (b ^ j) * {i + 3}; return r; }}\n"
        for i in range(1500)
    )
    source.write_text(functions)
    compare(["gcc", "-O2", "-S", "-o", "-", str(source)], tmp_path, resident="24M", least_out=100)


THREADS = r"""
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>
int main() {
    const int threads = 4;
    std::vector<std::uint64_t> sums(threads);
    std::vector<std::uint32_t> shared(10 << 20);
    std::vector<std::thread> crew;
    for (int t = 0; t < threads; t++)
        crew.emplace_back([&, t] {
            std::mt19937 random(t);
            const std::size_t part = shared.size() / threads;
            for (std::size_t i = t * part; i < (t + 1) * part; i++) shared[i] = random() % 100000;
            std::map<std::string, int> words;
            for (int i = 0; i < 60000; i++) words[std::to_string(random() % 50000) + "-some-longer-word"] += i;
            std::sort(shared.begin() + t * part, shared.begin() + (t + 1) * part);
            std::uint64_t sum = 0;
            for (auto& [word, count] : words) sum = sum * 31 + word.size() + count;
            for (std::size_t i = t * part; i < (t + 1) * part; i += 3) sum = sum * 31 + shared[i];
            sums[t] = sum;
        });
    for (auto& thread : crew) thread.join();
    for (auto sum : sums) std::printf("%llx\n", (unsigned long long)sum);
}
"""


def test_a_threaded_cpp_program(tmp_path: Path) -> None:
    need("g++")
    (tmp_path / "threads.cc").write_text(THREADS)
    program = tmp_path / "threads"
    subprocess.run(["g++", "-O2", "-pthread", "-o", program, tmp_path / "threads.cc"], check=True, timeout=DEADLINE_S)
    compare([str(program)], tmp_path, resident="24M", least_out=5_000)


def test_a_shell_pipeline_of_several(tmp_path: Path) -> None:
    need("sort", "awk", "gzip")
    source = tmp_path / "text"
    source.write_bytes(words(150_000))
    count = "awk '{ s[substr($1, 1, 3)] += length($0) } END { for (k in s) print k, s[k] }'"
    line = f"cat {source} | sort -S 128M | {count}"
    compare(
        ["sh", "-c", f"{line} | sort -S 64M | gzip -n | gzip -dc | cksum"], tmp_path, resident="8M", least_out=1_000
    )


def talk(port: int, *commands: str) -> list[bytes]:
    """Sends inline commands to redis and returns the first line of each answer."""
    with socket.create_connection(("127.0.0.1", port), 10) as link, link.makefile("rwb") as stream:
        answers = []
        for command in commands:
            stream.write(command.encode() + b"\r\n")
            stream.flush()
            line = stream.readline().strip()
            if line.startswith(b"$") and line != b"$-1":
                line = stream.read(int(line[1:]) + 2)[:-2]
            answers.append(line)
        return answers


def serves(port: int) -> bool:
    try:
        return talk(port, "PING") == [b"+PONG"]
    except OSError:
        return False


def test_redis_server_with_bgsave(tmp_path: Path) -> None:
    need("redis-server")
    (port,) = free_ports(1)
    server = [
        "redis-server",
        "--port",
        str(port),
        "--dir",
        str(tmp_path),
        "--save",
        "",
        "--dbfilename",
        "d.rdb",
        "--rdbcompression",
        "no",
    ]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([*RAMSTER, "run", "--local", "24M", "--", *server], stdout=log, stderr=log)
    try:
        wait_for(lambda: serves(port), "redis serves")
        fill = (
            "for i = 0, 59999 do redis.call('set', 'key:' .. i, string.rep('value ' .. i .. ' ', 60)) end return 'ok'"
        )
        assert talk(port, f'EVAL "{fill}" 0') == [b"ok"]
        assert talk(port, "DBSIZE", "BGSAVE") == [b":60000", b"+Background saving started"]
        # Written while the child saves what was there before.
        change = "for i = 0, 59999, 7 do redis.call('set', 'key:' .. i, 'new') end return 'ok'"
        assert talk(port, f'EVAL "{change}" 0') == [b"ok"]
        wait_for(lambda: b"rdb_bgsave_in_progress:0" in talk(port, "INFO persistence")[0], "the save ends", DEADLINE_S)
        assert b"rdb_last_bgsave_status:ok" in talk(port, "INFO persistence")[0]
        keys = random.Random(3).sample(range(60_000), 500)
        for key, value in zip(keys, talk(port, *(f"GET key:{key}" for key in keys)), strict=True):
            assert value == (b"new" if key % 7 == 0 else f"value {key} ".encode() * 60)
        snapshot = (tmp_path / "d.rdb").read_bytes()
        for key in keys:
            assert f"value {key} ".encode() * 60 in snapshot
        talk(port, "SHUTDOWN NOSAVE")
        assert process.wait(20) == 0
    except (OSError, AssertionError):
        print((tmp_path / "log").read_text(errors="replace")[-2000:])
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(20)
        log.close()


CALLS = r"""
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
page = 4096
area = mmap.mmap(-1, 16000 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(16000):
    area[i * page : i * page + 8] = i.to_bytes(8, "little")
assert all(area[i * page : i * page + 8] == i.to_bytes(8, "little") for i in range(16000))
path = sys.argv[1]
with open(path, "wb") as out:            # write(2) out of evicted memory
    out.write(memoryview(area))
again = mmap.mmap(-1, 16000 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
with open(path, "rb", buffering=0) as source:   # read(2) into memory of which some is evicted
    view, done = memoryview(again), 0
    while done < len(view):
        done += source.readinto(view[done:])
assert again[:] == area[:]
area.madvise(mmap.MADV_DONTNEED, 0, 100 * page)
assert area[: 100 * page] == bytes(100 * page)
assert area[100 * page : 100 * page + 8] == (100).to_bytes(8, "little")
area.resize(20000 * page)                # mremap
assert area[15999 * page : 15999 * page + 8] == (15999).to_bytes(8, "little")
assert area[16000 * page :] == bytes(4000 * page)
print("ok")
"""


def test_system_calls_into_evicted_memory_and_changes_of_mappings(tmp_path: Path) -> None:
    compare([sys.executable, "-c", CALLS, str(tmp_path / "file")], tmp_path, resident="16M", least_out=10_000)


def test_the_time_of_a_program_that_fits_is_spent_in_the_program(tmp_path: Path) -> None:
    """No timed assertion: only that nothing leaves when everything fits."""
    stats = tmp_path / "stats.json"
    begin = time.monotonic()
    answer = under_ramster([sys.executable, "-c", "print(sum(range(100000)))"], local="1G", stats=stats)
    assert time.monotonic() - begin < DEADLINE_S
    assert answer.stdout == b"4999950000\n"
    assert json.loads(stats.read_text())["pages_out"] == 0


def test_the_preload_library_needs_no_python() -> None:
    need("ldd")
    from ramster.doors import launch

    needed = subprocess.run(["ldd", launch.preload_library()], capture_output=True, timeout=20, check=True).stdout
    assert b"python" not in needed
