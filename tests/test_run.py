"""`ramster run`: exit codes, signals, streams, job control and statistics are as without it."""

import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import RAMSTER, ramster, under_ramster, wait_for

PROMISED = [
    "faults",
    "faults_local",
    "faults_remote",
    "pages_out",
    "pages_remotified",
    "bytes_resident_max",
    "bytes_stored_max",
]


@pytest.fixture(params=["direct", "supervised"])
def flags(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Both ways of running: in this process's place, and as a child of the one that writes the statistics."""
    return ["--stats", str(tmp_path / "stats.json")] if request.param == "supervised" else []


@pytest.mark.parametrize("code", [0, 1, 7, 126, 127, 255])
def test_the_exit_code_is_the_programs(flags: list[str], code: int) -> None:
    assert ramster("run", *flags, "--", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGUSR1, signal.SIGPIPE]
)
def test_a_program_that_dies_of_a_signal_looks_so_from_outside(flags: list[str], number: signal.Signals) -> None:
    assert ramster("run", *flags, "--", "sh", "-c", f"kill -{int(number)} $$").returncode == -number


def test_streams_arguments_and_directory_pass_unchanged(flags: list[str], tmp_path: Path) -> None:
    answer = ramster(
        "run", *flags, "--", "sh", "-c", 'pwd; cat; printf "%s|" "$@"; echo oops >&2', "sh", "a b", "", "--json", "ä",
        input=b"\0\1\xff\n", stdin=None, cwd=tmp_path,
    )  # fmt: skip
    assert answer.stdout == f"{tmp_path}\n".encode() + b"\0\1\xff\n" + "a b||--json|ä|".encode()
    assert answer.stderr == b"oops\n"


def test_descriptors_and_signal_dispositions_are_as_without_it(flags: list[str]) -> None:
    # By the shell alone: while it starts another program it has all signals blocked.
    signals = "while read -r line; do case $line in SigBlk*|SigIgn*|SigCgt*) echo $line;; esac; done < /proc/$$/status"
    # A pipeline would show its own pipe, or not, as it happens.
    show = f"{signals}; set -- /proc/$$/fd/*; echo $#; ulimit -a; umask"
    plain = subprocess.run(["sh", "-c", show], capture_output=True, timeout=60, stdin=subprocess.DEVNULL, check=True)
    answer = ramster("run", *flags, "--", "sh", "-c", show)
    assert answer.stdout == plain.stdout


def test_a_closed_pipe_ends_the_program_quietly(flags: list[str]) -> None:
    line = " ".join([*RAMSTER, "run", *flags, "--", "yes", "|", "head", "-1"])
    answer = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], capture_output=True, timeout=60, check=False
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (128 + signal.SIGPIPE, b"y\n", b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_ramster_reaches_the_program_once(flags: list[str], number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import signal, time, sys\n"
        "seen = []\n"
        f"signal.signal({int(number)}, lambda *a: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "time.sleep(1.0)\n"
        "time.sleep(0.5)\n"
        "sys.exit(40 + len(seen))\n"
    )
    process = subprocess.Popen([*RAMSTER, "run", *flags, "--", sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.wait(30) == 41


def read_until(terminal: int, word: bytes, seconds: float = 20.0) -> bytes:
    seen = b""
    end = time.monotonic() + seconds
    os.set_blocking(terminal, False)
    while word not in seen:
        assert time.monotonic() < end, seen
        try:
            seen += os.read(terminal, 4096)
        except BlockingIOError:
            time.sleep(0.02)
    return seen


def test_ctrl_c_on_a_terminal_reaches_the_program_once(flags: list[str]) -> None:
    code = (
        "import signal, time, sys\n"
        "seen = []\n"
        "signal.signal(signal.SIGINT, lambda *a: seen.append(1))\n"
        "print('ready', flush=True)\n"
        "time.sleep(0.8); time.sleep(0.4)\n"
        "sys.exit(40 + len(seen))\n"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execv(RAMSTER[0], [*RAMSTER, "run", *flags, "--", sys.executable, "-c", code])
    read_until(terminal, b"ready")
    os.write(terminal, b"\x03")
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 41


# The job control of a shell: the job in a group of its own, in the foreground; stopped, continued, waited for.
SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
status = os.waitpid(job, os.WUNTRACED)[1]
if not os.WIFSTOPPED(status): sys.exit(100)
os.tcsetpgrp(0, os.getpgrp())
print("stopped", flush=True)
sys.stdin.readline()
os.tcsetpgrp(0, job)
os.killpg(job, signal.SIGCONT)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]))
"""


def test_ctrl_z_stops_the_whole_job_and_fg_goes_on(flags: list[str]) -> None:
    program = [*RAMSTER, "run", *flags, "--", "sh", "-c", "echo ready; read x; echo got $x; exit 5"]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", SHELL, *program])
    read_until(terminal, b"ready")
    os.write(terminal, b"\x1a")
    read_until(terminal, b"stopped")
    os.write(terminal, b"fg\n")
    time.sleep(0.2)
    os.write(terminal, b"word\n")
    read_until(terminal, b"got word")
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 5


def test_sigkill_of_the_supervisor_takes_the_program_along(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*RAMSTER, "run", "--stats", str(tmp_path / "s"), "--", "sh", "-c", "echo $$; exec sleep 60"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    program = int(process.stdout.readline())
    process.kill()
    process.wait(20)
    wait_for(lambda: not Path(f"/proc/{program}").exists(), "the program's end")
    for block in Path("/dev/shm").glob(f"ramster-{process.pid}-*"):
        block.unlink()


def test_without_stats_the_program_has_the_process_id_of_the_command() -> None:
    process = subprocess.Popen([*RAMSTER, "run", "--", "sh", "-c", "echo $$"], stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=30)
    assert int(out) == process.pid


def test_a_core_dump_is_the_programs_own(flags: list[str], tmp_path: Path) -> None:
    if Path("/proc/sys/kernel/core_pattern").read_text().strip() not in ("core", "core.%p", "core%p"):
        pytest.skip("core_pattern of this machine does not put cores into the directory")
    answer = ramster(
        "run", *flags, "--", "sh", "-c", "kill -ABRT $$",
        cwd=tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30)),
    )  # fmt: skip
    assert answer.returncode == -signal.SIGABRT
    assert len(list(tmp_path.glob("core*"))) == 1


WORK = """
import sys
blocks = [bytes([i & 255]) * 4000 + i.to_bytes(8, "little") * 12 for i in range(24000)]
print(sum(block[-9] for block in blocks))
"""


def test_statistics_have_every_promised_field_and_respect_the_limit(tmp_path: Path) -> None:
    stats = tmp_path / "stats.json"
    plain = subprocess.run([sys.executable, "-c", WORK], capture_output=True, timeout=60, check=True)
    answer = under_ramster([sys.executable, "-c", WORK], local="24M", stats=stats)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, plain.stdout, b"")
    found = json.loads(stats.read_text())
    assert list(found)[: len(PROMISED)] == PROMISED
    assert found.pop("disk") == "none"
    assert all(isinstance(value, int) for value in found.values())
    assert found["pages_out"] > 10_000
    assert found["faults"] >= found["faults_local"] > 0
    assert found["faults_remote"] == found["pages_remotified"] == 0
    # A little over for the frames that are between fault and store.
    assert 0 < found["bytes_resident_max"] <= (24 << 20) * 1.1


def test_the_supervisor_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*RAMSTER, "run", "--stats", str(tmp_path / "s"), "--", "sh", "-c", "ls /dev/shm; kill -9 $$"]
    )
    assert process.wait(60) == -signal.SIGKILL
    assert not list(Path("/dev/shm").glob(f"ramster-{process.pid}-*"))


def test_statistics_may_go_to_a_pipe() -> None:
    read_end, write_end = os.pipe()
    answer = under_ramster(["true"], stats=Path(f"/dev/fd/{write_end}"), pass_fds=[write_end])
    os.close(write_end)
    with os.fdopen(read_end) as stream:
        assert set(PROMISED) <= set(json.load(stream))
    assert answer.returncode == 0


def test_the_program_of_a_program_is_managed_too(tmp_path: Path) -> None:
    stats = tmp_path / "stats.json"
    answer = under_ramster(["sh", "-c", '"$0" -c "$1"', sys.executable, WORK], local="24M", stats=stats)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(stats.read_text())["pages_out"] > 10_000


def test_a_spill_directory_takes_what_fits_nowhere_else_and_is_left_empty(tmp_path: Path) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    code = "import os; a = os.urandom(100 << 20); print(hash(a) == hash(bytes(bytearray(a))))"
    stats = tmp_path / "stats.json"
    answer = under_ramster([sys.executable, "-c", code], local="24M", stats=stats, flags=("--spill", str(spill)))
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, b"True\n", b"")
    found = json.loads(stats.read_text())
    assert found["pages_spilled"] > 0
    assert (found["soft_limit"], found["disk"]) == (0, "ok")
    assert list(spill.iterdir()) == []
