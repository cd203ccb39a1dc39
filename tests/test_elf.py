"""Which programs can be preloaded."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from conftest import need
from ramster.doors import elf
from ramster.errors import UsageError


def copy_of_true(tmp_path: Path, name: str = "program") -> Path:
    path = tmp_path / name
    shutil.copy(shutil.which("true") or "/bin/true", path)
    path.chmod(0o755)
    return path


def test_a_dynamic_program_and_a_script_are_fine(tmp_path: Path) -> None:
    elf.check(str(copy_of_true(tmp_path)))
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\ntrue\n")
    elf.check(str(script))


@pytest.mark.parametrize("flags", [["-static"], ["-static-pie"]])
def test_a_static_program_is_told(tmp_path: Path, flags: list[str]) -> None:
    need("cc")
    path = tmp_path / "still"
    built = subprocess.run(
        ["cc", *flags, "-x", "c", "-o", path, "-"], input=b"int main(){return 0;}", capture_output=True, timeout=60
    )
    if built.returncode:
        pytest.skip(f"cc cannot link with {flags[0]} here")
    with pytest.raises(UsageError, match="statically linked"):
        elf.check(str(path))


def test_a_set_uid_program_is_told_and_so_is_a_script_that_runs_in_one(tmp_path: Path) -> None:
    path = copy_of_true(tmp_path)
    path.chmod(0o4755)
    with pytest.raises(UsageError, match="set-uid"):
        elf.check(str(path))
    script = tmp_path / "script"
    script.write_text(f"#!{path} -x\n")
    with pytest.raises(UsageError, match="set-uid"):
        elf.check(str(script))


def patched(tmp_path: Path, offset: int, value: bytes) -> str:
    path = copy_of_true(tmp_path)
    data = bytearray(path.read_bytes())
    data[offset : offset + len(value)] = value
    path.write_bytes(data)
    return str(path)


def test_other_kinds_of_elf_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="64-bit"):
        elf.check(patched(tmp_path, 4, b"\1"))
    with pytest.raises(UsageError, match="kind of processor"):
        elf.check(patched(tmp_path, 18, struct.pack("<H", 22)))
    with pytest.raises(UsageError, match="no program"):
        elf.check(patched(tmp_path, 16, struct.pack("<H", 1)))


def test_hostile_elf_headers_end_in_one_line_never_in_a_traceback(tmp_path: Path) -> None:
    for offset, value in ((32, b"\xff" * 7 + b"\0"), (54, b"\0\0"), (54, b"\xff\xff\xff\xff"), (56, b"\xff\xff")):
        try:
            elf.check(patched(tmp_path, offset, value))
        except UsageError:
            pass
    short = tmp_path / "short"
    short.write_bytes(b"\x7fELF\2\1")
    with pytest.raises(UsageError):
        elf.check(str(short))


def test_a_text_without_a_first_line_for_the_kernel_is_told(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("echo hello\n")
    with pytest.raises(UsageError, match="neither an ELF program nor a script"):
        elf.check(str(path))
    path.write_text("#!/nowhere/sh\n")
    with pytest.raises(UsageError, match="/nowhere/sh"):
        elf.check(str(path))


def test_path_is_searched_as_execvp_does(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    (first / "tool").write_text("")
    copy_of_true(second, "tool")
    assert elf.find("tool", f"{first}:{second}") == str(second / "tool")
    with pytest.raises(UsageError, match="chmod"):
        elf.find("tool", str(first))
    with pytest.raises(UsageError, match="no such program in PATH"):
        elf.find("tool", str(tmp_path / "c"))
    with pytest.raises(UsageError, match="is a directory"):
        elf.find(f"{first}/", os.defpath)
