"""`ramster run`: the environment with the preload library in it, then the program in this process's place.

Not: `--stats`, which needs somebody to wait (`supervise`). Nothing slow is imported here: this is the way of every
program's start.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any, NoReturn

from ramster.doors import elf
from ramster.errors import PrivilegeError, StartError, UsageError

# Python ignores these at its start; a program that inherited that would not die of a closed pipe as it should.
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def preload_library() -> str:
    """The path of the preload library beside this package."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    names = sorted(name for name in os.listdir(package) if name.startswith("_preload") and name.endswith(".so"))
    if not names:
        raise StartError(
            f"{package}: the preload library _preload*.so is missing; install ramster again: pip install ."
        )
    path = os.path.join(package, names[0])
    if " " in path or ":" in path:
        raise StartError(
            f"{path}: the loader cannot preload from a path with a space or colon; install ramster elsewhere"
        )
    return path


def original_environment() -> dict[str, str]:
    """The environment that this process was started with: Python itself changes LC_CTYPE, which the program must not see."""
    try:
        with open("/proc/self/environ", "rb") as stream:
            raw = stream.read()
    except OSError:
        return dict(os.environ)
    pairs = (os.fsdecode(entry).partition("=") for entry in raw.split(b"\0") if b"=" in entry)
    return {name: value for name, _, value in pairs}


def environment(options: dict[str, Any], *, library: str) -> dict[str, str]:
    """The program's environment: as it was, with the library in front of what was preloaded already."""
    found = original_environment()
    others = [part for part in found.get("LD_PRELOAD", "").replace(":", " ").split() if part != library]
    found["LD_PRELOAD"] = ":".join([library, *others])
    found["RAMSTER_OPTIONS"] = json.dumps(options, separators=(",", ":"))
    return found


def resolve(command: list[str], environ: dict[str, str]) -> str:
    """The file to execute, checked. Raises UsageError."""
    path = elf.find(command[0], environ.get("PATH"))
    elf.check(path)
    return path


def need_privilege() -> None:
    """Raises PrivilegeError when the kernel does not let this user's programs have a pager; before the program starts,
    not within it.
    """
    from ramster import _native

    reason = userfaultfd_refusal(_native.probe())
    if reason is not None:
        raise PrivilegeError(f"{reason}; see: ramster doctor")


def userfaultfd_refusal(probe: dict[str, Any]) -> str | None:
    """Why `_native.probe()` says that there can be no pager here, with the cure; None when there can."""
    found: dict[str, str] = probe["userfaultfd"]
    return found.get("Err")


def execute(path: str, command: list[str], environ: dict[str, str]) -> NoReturn:
    """Becomes the program: same process, so signals, exit code, job control and core dumps are the program's own."""
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(path, command, environ)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be run ({error.strerror}); check that it is a program for this machine"
        ) from None
