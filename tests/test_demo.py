"""The demonstration, small: its last line, its cleaning up, and that wrong bytes would be seen."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from conftest import RAMSTER, ramster, wait_for
from ramster.demo import text

PROMISED = {"verified", "data_bytes", "local_limit_bytes", "pages_remotified", "pages_localified", "seconds"}


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_the_demo_verifies_every_byte_and_leaves_nothing(tmp_path: Path) -> None:
    answer = ramster("demo", "--size", "24M", "--json", env={**os.environ, "TMPDIR": str(tmp_path)})
    assert answer.returncode == 0, answer.stderr.decode()
    found = json.loads(answer.stdout.splitlines()[-1])
    assert set(found) >= PROMISED
    assert found["verified"] is True
    assert found["data_bytes"] >= 3.9 * found["local_limit_bytes"]
    assert found["pages_remotified"] > 0
    assert found["pages_localified"] > 0
    assert left_behind(tmp_path) == []


def test_an_interrupted_demo_cleans_up(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*RAMSTER, "demo", "--size", "64M"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: any(tmp_path.glob("ramster-demo-*/node1.sock")), "the nodes run", 60)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert left_behind(tmp_path) == []
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, timeout=20, check=True).stdout
    assert str(tmp_path).encode() not in processes


def test_records_keep_every_byte_but_the_empty_lines_between_them() -> None:
    content = b"\n\n".join(b"paragraph %d " % i * (i % 50) for i in range(300))
    records = list(text.cut(content))
    assert all(record.endswith(b"\0") and record.count(b"\0") == 1 for record in records)
    assert b"".join(record[:-1] for record in records).replace(b"\n", b"") == content.replace(b"\n", b"")


def test_only_plain_text_that_anybody_may_read_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content, mode in (
        ("a.txt", b"good " * 1000, 0o644),
        ("b.txt", b"secret", 0o600),
        ("c.txt", b"\0binary", 0o644),
        ("d.bin", b"data", 0o644),
    ):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(mode)
    (tmp_path / "e.txt").symlink_to(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "f.txt")
    monkeypatch.setattr(text, "FOLDERS", (str(tmp_path), str(tmp_path)))
    found = text.collect(str(tmp_path / "out"), 1 << 20, 5)
    assert (found.files, found.short) == (1, True)
    assert b"secret" not in (tmp_path / "out").read_bytes()
