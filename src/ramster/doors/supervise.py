"""`ramster run --stats FILE`: runs the program as a child, stands aside for signals, and writes the statistics at its end.

The child stays in this process's group, so the terminal reaches it directly. A signal that somebody sends to us alone
goes on to it; one that the terminal sends to the group does not, or it would come twice (the rule that sudo has). When
the child stops, we stop; when it dies of a signal, we die of the same. SIGKILL of this process cannot be passed on by
us, so the kernel does it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import time
from typing import Any

from ramster.doors import launch
from ramster.errors import ConfigError, StartError
from ramster.metrics import names

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGTSTP,
    signal.SIGCONT,
)
# si_code of a signal that the kernel made itself, as for Ctrl-C: the whole group has it already.
SI_KERNEL = 0x80
STAT_WORDS = 64


def run(path: str, command: list[str], options: dict[str, Any], *, library: str, stats_path: str) -> int:
    """Returns the wait status of the program. Raises ConfigError for a statistics file that cannot be written, before
    it starts.
    """
    stats_fd = _open_stats(stats_path)
    block = _make_block()
    try:
        options["stat_block"] = block
        environ = launch.environment(options, library=library)
        status = _run(path, command, environ)
        with open(block, "rb") as stream:
            words = struct.unpack(f"<{STAT_WORDS}Q", stream.read(STAT_WORDS * 8).ljust(STAT_WORDS * 8, b"\0"))
    finally:
        os.unlink(block)
    _write(stats_fd, stats_path, words, has_disk="spill_dir" in options)
    return status


def end_like(status: int) -> int:
    """Returns the exit code of `status`; when the program died of a signal, this process dies of it too."""
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    number = os.WTERMSIG(status)
    # The core that matters is the program's; ours would overwrite it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number  # only for a signal whose default is to be ignored


def _open_stats(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"--stats: {path} cannot be written ({error.strerror}); name a file in a directory that can"
        ) from None


def _make_block() -> str:
    for folder in ("/dev/shm", os.environ.get("TMPDIR", "/tmp")):
        path = os.path.join(folder, f"ramster-{os.getpid()}-{time.monotonic_ns()}.stats")
        try:
            block_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            continue
        os.ftruncate(block_fd, STAT_WORDS * 8)
        os.close(block_fd)
        return path
    raise StartError("--stats: neither /dev/shm nor /tmp takes a file of 512 bytes; make room there or set TMPDIR")


def _run(path: str, command: list[str], environ: dict[str, str]) -> int:
    import ctypes  # prctl has no other door in the standard library

    prctl = ctypes.CDLL(None).prctl
    waited = {*FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    child_action = signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )  # an inherited SIG_IGN would leave us nothing to wait for
    error_read, error_write = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _become(path, command, environ, prctl, parent, before, child_action, error_write)
    os.close(error_write)
    with os.fdopen(error_read, "rb") as stream:
        failure = stream.read()
    if failure:
        os.waitpid(child, 0)
        raise StartError(f"{path}: cannot be run ({failure.decode()}); check that it is a program for this machine")
    return _wait(child, waited)


def _become(
    path: str,
    command: list[str],
    environ: dict[str, str],
    prctl: Any,
    parent: int,
    mask: set[int],
    child_action: Any,
    error_write: int,
) -> None:
    """In the child: everything as this process found it, then the program. Never returns."""
    try:
        prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(137)
        if child_action is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for number in launch.IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execve(path, command, environ)
    except OSError as error:
        os.write(error_write, (error.strerror or str(error)).encode())
    finally:
        os._exit(126)


def _wait(child: int, waited: set[signal.Signals]) -> int:
    while True:
        found = signal.sigwaitinfo(waited)
        if found.si_signo != signal.SIGCHLD:
            if found.si_code != SI_KERNEL and found.si_pid != child:
                os.kill(child, found.si_signo)
            continue
        # Only our own child: whatever else this process inherited is not ours to reap.
        done, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if done == 0:
            continue
        if os.WIFSTOPPED(status):
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(child, signal.SIGCONT)
            continue
        return status


def _write(stats_fd: int, path: str, words: tuple[int, ...], *, has_disk: bool) -> None:
    from ramster import _native

    counted = names.promised_first(dict(zip(_native.STAT_FIELDS, words, strict=False)))
    stats = {**counted, "disk": names.disk_word(counted, has_disk=has_disk)}
    try:
        with os.fdopen(stats_fd, "w") as stream:
            if stream.seekable():
                stream.truncate(0)
            stream.write(json.dumps(stats) + "\n")
    except OSError as error:
        raise StartError(
            f"--stats: {path} cannot be written ({error.strerror}); the program itself ended normally"
        ) from None
