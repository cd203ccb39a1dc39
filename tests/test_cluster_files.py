"""The cluster's directory: private, whole or not there, never overwritten."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest

from cluster_sides import make_cluster
from conftest import RAMSTER, need, ramster
from ramster.errors import ConfigError, RefusedError, StartError
from ramster.security import credentials, files


def test_init_makes_a_private_directory_with_keys_for_its_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "etc" / "ramster"
    answer = ramster("init", "--dir", str(folder), "--listen", "127.0.0.1:7946")
    assert answer.returncode == 0, answer.stderr
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "node.pem": 0o600, "clients.pem": 0o600, "node.toml": 0o644}
    lines = answer.stdout.decode().splitlines()
    assert lines[-2:] == [f"  ramster node --config {folder}/node.toml", f"  ramster token --dir {folder}"]
    assert sorted(os.listdir(folder.parent)) == ["ramster"]


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    make_cluster(tmp_path / "n")
    before = {path.name: path.read_bytes() for path in (tmp_path / "n").iterdir()}
    answer = ramster("init", "--dir", str(tmp_path / "n"), "--listen", "127.0.0.1:7946")
    assert answer.returncode == 1
    assert b"nothing is overwritten" in answer.stderr
    assert answer.stderr.count(b"\n") == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "n").iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--listen", "0.0.0.0:7946"], b"--listen"),
        (["--listen", "127.0.0.1:0"], b"port 0"),
        (["--listen", "127.0.0.1"], b"host:port"),
        (["--listen", "127.0.0.1:65535"], b"--control"),
        (["--listen", "127.0.0.1:7946", "--control", "127.0.0.1:7946"], b"--control"),
        (["--listen", "127.0.0.1:7946", "--offer", "much"], b"--offer"),
        (["--listen", "127.0.0.1:7946", "--id", "0"], b"--id"),
    ],
)
def test_bad_flags_make_nothing(tmp_path: Path, flags: list[str], words: bytes) -> None:
    answer = ramster("init", "--dir", str(tmp_path / "n"), *flags)
    assert answer.returncode == 2
    assert words in answer.stderr
    assert answer.stderr.count(b"\n") == 1
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize("name", ["node.pem", "clients.pem", "ca.key"])
def test_a_key_that_others_can_read_is_refused_with_the_cure(tmp_path: Path, name: str) -> None:
    make_cluster(tmp_path / "n")
    path = tmp_path / "n" / name
    path.chmod(0o640)
    directory = files.Directory(str(tmp_path / "n"))
    with pytest.raises(ConfigError) as caught:
        credentials.load_authority(directory) if name == "ca.key" else credentials.load(directory)
    assert str(caught.value).endswith(f"cure: chmod 600 {path}")
    path.chmod(0o600)
    credentials.load(directory)
    credentials.load_authority(directory)


def test_a_key_of_another_user_or_behind_a_link_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file away needs root")
    make_cluster(tmp_path / "n")
    directory = files.Directory(str(tmp_path / "n"))
    path = tmp_path / "n" / "node.pem"
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="chown"):
        credentials.load(directory)
    os.chown(path, 0, -1)
    path.rename(tmp_path / "elsewhere.pem")
    path.symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(ConfigError, match=r"node\.pem"):
        credentials.load(directory)


def test_files_of_two_clusters_or_two_nodes_do_not_mix(tmp_path: Path) -> None:
    make_cluster(tmp_path / "a")
    make_cluster(tmp_path / "b")
    make_cluster(tmp_path / "c", node=2)
    for name, words in (
        ("node.pem", "not signed"),
        ("clients.pem", "not signed"),
        ("ca.pem", "not signed"),
        ("ca.key", "not the key"),
    ):
        keep = (tmp_path / "a" / name).read_bytes()
        (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
        directory = files.Directory(str(tmp_path / "a"))
        with pytest.raises(ConfigError, match=words):
            credentials.load_authority(directory) if name == "ca.key" else credentials.load(directory)
        (tmp_path / "a" / name).write_bytes(keep)
    (tmp_path / "a" / "node.pem").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match=r"node\.pem"):
        credentials.load(directory)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = files.Directory(str(tmp_path))
    directory.write("x", "old", private=True)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StartError, match=r"no space left.*make room"):
        directory.write("x", "new", private=True)
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def _write_and_fail(directory: files.Directory) -> None:
    directory.write("x", "y", private=True)
    raise RefusedError("in the middle")


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="in the middle"), files.new_directory(str(tmp_path / "n")) as directory:
        _write_and_fail(directory)
    assert os.listdir(tmp_path) == []
    (tmp_path / "n").mkdir()
    with files.new_directory(str(tmp_path / "n")) as directory:
        directory.write("x", "y", private=True)
        assert os.listdir(tmp_path / "n") == []
    assert os.listdir(tmp_path) == ["n"]
    assert os.listdir(tmp_path / "n") == ["x"]
    with pytest.raises(StartError, match="not empty"), files.new_directory(str(tmp_path / "n")):
        pass


def test_a_full_disk_is_told_in_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    """A file system of 64 KiB, in a mount namespace of its own."""
    need("unshare", "mount")
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    script = (
        f"mount -t tmpfs -o size=64k none {tmp_path} && head -c 20000 /dev/zero > {tmp_path}/filler && "
        f"{' '.join(RAMSTER)} init --dir {tmp_path}/n --listen 127.0.0.1:7946; code=$?; ls {tmp_path}; exit $code"
    )
    answer = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, timeout=60)
    assert answer.returncode == 1, answer
    assert answer.stdout == b"filler\n"
    assert answer.stderr.count(b"\n") == 1
    assert b"no space left" in answer.stderr


def test_the_lock_keeps_others_out_and_gives_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = files.Directory(str(tmp_path))
    counted = [0]

    def count() -> None:
        for _ in range(50):
            with directory.locked():
                before = counted[0]
                os.sched_yield()
                counted[0] = before + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert counted[0] == 200
    monkeypatch.setattr(files, "LOCK_DEADLINE_S", 0.1)
    with directory.locked(), pytest.raises(StartError, match="locked"), directory.locked():
        pass


def test_a_damaged_list_is_told_and_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    directory = files.Directory(str(tmp_path))
    assert directory.read_json(files.TOKENS, default={}) == {}
    directory.write(files.TOKENS, '{"tokens": [', private=True)
    with pytest.raises(ConfigError, match="damaged"):
        directory.read_json(files.TOKENS, default={})
