"""C and C++ programs that check themselves byte by byte, without the preload library and with most of their memory evicted.

Each of tests/programs/*.c prints OK and nothing else, or says on standard error which check failed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import DEADLINE_S, NodeUnderTest, need, under_ramster, wait_for
from ramster.doors.launch import preload_library

SOURCES = Path(__file__).parent / "programs"
PROGRAMS = sorted(path.stem for path in SOURCES.glob("*.c*") if path.stem != "tls_part")
# What another allocator under them could change.
ALLOCATING = ["containers", "forks", "malloc", "threads", "tls"]
# What treats a page at a peer differently from one in the store here.
TRAVELLING = ["advise", "forks", "io", "maps", "remap", "signals", "threads"]
TLS_COPIES = 40
# Pages leave above this much; the store has room, so that nothing need be said about the limit.
RESIDENT = ("--resident", "16M")
# 16 MiB of a program that has at least twice that are 4096 pages; fewer out would mean that little was tested.
LEAST_OUT = 2000


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all the programs in it."""
    need("cc", "c++")
    folder = tmp_path_factory.mktemp("programs")
    for name in PROGRAMS:
        source = next(SOURCES.glob(f"{name}.c*"))
        compiler = ["c++", "-std=c++17"] if source.suffix == ".cpp" else ["cc", "-std=gnu11"]
        command = [*compiler, "-O1", "-w", "-pthread", "-o", str(folder / name), str(source), "-ldl"]
        subprocess.run(command, check=True, timeout=DEADLINE_S)
    part = folder / "tls_part.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", str(part), str(SOURCES / "tls_part.c")], check=True, timeout=DEADLINE_S
    )
    for number in range(TLS_COPIES):
        shutil.copy(part, f"{part}.{number}")
    return folder


def command_of(built: Path, name: str) -> list[str]:
    return [str(built / name), str(built / "tls_part.so")] if name == "tls" else [str(built / name)]


def with_library(options: str | None) -> dict[str, str]:
    environment = {**os.environ, "LD_PRELOAD": preload_library()}
    environment.pop("RAMSTER_OPTIONS", None)
    return environment if options is None else {**environment, "RAMSTER_OPTIONS": options}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_is_right_about_the_kernel(built: Path, name: str) -> None:
    answer = subprocess.run(command_of(built, name), capture_output=True, timeout=DEADLINE_S)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, b"OK\n", b"")


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_behaves_the_same_with_its_memory_evicted(built: Path, tmp_path: Path, name: str) -> None:
    stats = tmp_path / "stats.json"
    answer = under_ramster(command_of(built, name), local="512M", flags=RESIDENT, stats=stats)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, b"OK\n", b"")
    found = json.loads(stats.read_text())
    assert found["pages_out"] >= LEAST_OUT
    assert found["pages_lost"] == 0


@pytest.mark.parametrize("name", ALLOCATING)
def test_program_behaves_the_same_on_the_allocator_of_libc(built: Path, name: str) -> None:
    answer = under_ramster(command_of(built, name), local="512M", flags=(*RESIDENT, "--malloc", "system"))
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, b"OK\n", b"")


@pytest.mark.parametrize("name", TRAVELLING)
def test_program_behaves_the_same_with_its_memory_at_a_peer(
    built: Path, tmp_path: Path, name: str, start_node: Callable[..., NodeUnderTest]
) -> None:
    stats = tmp_path / "stats.json"
    node = start_node(offer="1G")
    answer = under_ramster(command_of(built, name), local="8M", stats=stats, flags=("--peers", node.address))
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, b"OK\n", b"")
    found = json.loads(stats.read_text())
    assert found["pages_remotified"] >= LEAST_OUT
    assert found["faults_remote"] > 0
    assert found["pages_lost"] == 0


def is_orphan(name: str) -> bool:
    """`ramster-PID-....stats`, and that process is no more."""
    words = name.split("-")
    return words[0] == "ramster" and not Path(f"/proc/{words[1]}").exists()


def test_killed_program_leaves_nothing_behind(built: Path, tmp_path: Path) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    options = json.dumps({"local_bytes": 16 << 20, "spill_dir": str(spill)})
    before = set(os.listdir("/dev/shm"))
    for wait_s in (0.2, 0.6, 1.0):
        program = subprocess.Popen(
            command_of(built, "threads"), env=with_library(options), cwd=tmp_path, start_new_session=True
        )
        time.sleep(wait_s)
        program.kill()
        assert program.wait(20) == -signal.SIGKILL

        def is_gone(group: int = program.pid) -> bool:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return True
            return False

        wait_for(is_gone, "the end of the killed program's processes")
        assert os.listdir(spill) == []
        assert os.listdir(tmp_path) == ["spill"]
        # Other tests may run beside this one: what counts is what nobody lives to remove.
        wait_for(
            lambda: not [name for name in set(os.listdir("/dev/shm")) - before if is_orphan(name)], "no file stays"
        )


def test_library_without_options_passes_everything_through(built: Path) -> None:
    for name in ("maps", "malloc", "forks"):
        answer = subprocess.run(
            command_of(built, name), env=with_library(None), capture_output=True, timeout=DEADLINE_S
        )
        assert (answer.returncode, answer.stdout, answer.stderr) == (0, b"OK\n", b"")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("{", "EOF while parsing"),
        ('{"locl_bytes": 1}', "unknown field `locl_bytes`"),
        ('{"malloc": "best"}', 'malloc is "best"; it must be "auto" or "system"'),
        ('{"local_bytes": 4096}', "too small"),
    ],
)
def test_bad_options_end_the_program_with_one_line(options: str, words: str) -> None:
    answer = subprocess.run(["true"], env=with_library(options), capture_output=True, text=True, timeout=DEADLINE_S)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("ramster: ")
    assert answer.stderr.count("\n") == 1
    assert words in answer.stderr


def test_library_calls_nothing_that_it_takes_over() -> None:
    """Whatever its own code needs comes from the kernel, or from libc under a private name."""
    need("nm")
    listing = subprocess.run(
        ["nm", "-D", preload_library()], capture_output=True, text=True, check=True, timeout=DEADLINE_S
    ).stdout
    rows = [line.split() for line in listing.splitlines()]
    taken = {row[-1] for row in rows if row[-2] == "T"}
    wanted = {row[-1].split("@")[0] for row in rows if row[-2] in "Uw"}
    assert {"mmap", "munmap", "mremap", "madvise", "mprotect", "malloc", "free", "realloc", "calloc"} <= taken
    assert not taken & wanted
    assert not any(name.startswith("Py") for name in wanted)
    allowed = {"__libc_malloc", "__libc_calloc", "__libc_realloc", "__libc_memalign", "__libc_free"}
    assert {name for name in wanted if "alloc" in name or name.endswith("free")} <= allowed | {"__libc_free"}
