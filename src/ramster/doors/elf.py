"""Can a program be preloaded? Finds it as execvp would, follows `#!`, and reads the ELF header.

Raises UsageError with one line for what cannot run under the pager: static, set-uid, another machine's, or not there at all.
"""

from __future__ import annotations

import os
import stat
import struct

from ramster.errors import UsageError

# The kernel follows this many interpreters and no more (BINPRM_MAX_RECURSION).
SCRIPT_DEPTH = 4
PT_INTERP = 3
# e_machine of what ramster is built for; the pager has code for nothing else.
MACHINES = {"x86_64": 62, "aarch64": 183}


def find(program: str, path: str | None) -> str:
    """The file that `program` means, given the value of PATH; a relative path stays relative."""
    if not program:
        raise UsageError("the program's name is empty; write: ramster run -- PROGRAM ARGS")
    if "/" in program:
        _executable(program)
        return program
    refused: UsageError | None = None
    for folder in (path if path is not None else os.defpath).split(os.pathsep):
        candidate = os.path.join(folder or ".", program)
        if not os.path.exists(candidate):
            continue
        try:
            _executable(candidate)
            return candidate
        except UsageError as error:
            refused = refused or error
    raise refused or UsageError(f"{program}: there is no such program in PATH; check its name, or write its path")


def check(path: str, depth: int = 0) -> None:
    """Raises UsageError when the preload library cannot come along with `path`."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(64)
            mode = os.fstat(stream.fileno()).st_mode
            if head[:2] == b"#!":
                line = (head + stream.read(4096 - len(head))).split(b"\n", 1)[0]
            elif head[:4] == b"\x7fELF":
                _elf(path, head, stream)
    except PermissionError:
        return  # executable but not readable: the kernel will run it, and ld.so decides
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if head[:2] == b"#!":
        words = line[2:].split(None, 1)
        interpreter = os.fsdecode(words[0]) if words else ""
        if not os.path.exists(interpreter):
            raise UsageError(
                f"{path}: its first line asks for {interpreter or 'nothing'}, which does not exist; correct that line"
            )
        if depth < SCRIPT_DEPTH:
            check(interpreter, depth + 1)
        return
    if head[:4] != b"\x7fELF":
        raise UsageError(
            f"{path}: is neither an ELF program nor a script with #!; run it through its interpreter, like: sh {path}"
        )
    # The loader ignores LD_PRELOAD in a program that gains rights. One answer for every user, root too, is easier to rely on.
    if mode & stat.S_ISUID or (mode & stat.S_ISGID and mode & stat.S_IXGRP):
        raise UsageError(
            f"{path}: is a set-uid program, in which the loader allows no preloading; run it without ramster run"
        )
    if os.geteuid() != 0 and _has_capabilities(path):
        raise UsageError(
            f"{path}: has file capabilities, with which the loader allows no preloading; run it without ramster run"
        )


def _executable(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or 'cannot be found').lower()}; check the path") from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path}: is a directory; name the program in it")
    if not os.access(path, os.X_OK):
        raise UsageError(f"{path}: is not executable; if it is a program: chmod +x {path}")


def _elf(path: str, head: bytes, stream: object) -> None:
    if len(head) < 64 or head[4] != 2 or head[5] != 1:
        raise UsageError(f"{path}: is not a 64-bit little-endian program; ramster has no preload library for it")
    kind, machine = struct.unpack_from("<HH", head, 16)
    if machine != MACHINES.get(os.uname().machine, machine):
        raise UsageError(f"{path}: is built for another kind of processor; run one built for {os.uname().machine}")
    if kind not in (2, 3):
        raise UsageError(f"{path}: is an ELF file but no program; name a program")
    (offset,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    stream.seek(offset)  # type: ignore[attr-defined]
    table: bytes = stream.read(size * count)  # type: ignore[attr-defined]
    for index in range(count if size >= 56 else 0):
        if len(table) < (index + 1) * size:
            break
        segment = struct.unpack_from("<IIQQQQ", table, index * size)
        if segment[0] != PT_INTERP:
            continue
        stream.seek(segment[2])  # type: ignore[attr-defined]
        loader: bytes = stream.read(min(segment[5], 4096)).rstrip(b"\0")  # type: ignore[attr-defined]
        if b"musl" in loader:
            raise UsageError(f"{path}: is linked with musl; the preload library needs glibc, so run a build for glibc")
        return
    raise UsageError(
        f"{path}: is statically linked, so nothing can be preloaded into it; run a dynamically linked build"
    )


def _has_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False
