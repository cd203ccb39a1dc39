"""`ramster join` against a control port: what it checks before it says the secret, and that a join is whole or not there."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from cluster_sides import Side, make_cluster, make_token
from conftest import RAMSTER, need, ramster
from ports import free_address
from ramster.security import authority, credentials, files
from ramster.transport import lines


def join(token: str, address: str, folder: Path, *flags: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    listen = free_address()
    return ramster("join", token, address, "--dir", str(folder), "--listen", listen, *flags, **options)


def one_line(answer: subprocess.CompletedProcess[bytes], *words: str) -> None:
    assert answer.returncode == 1, answer
    text = answer.stderr.decode()
    assert text.startswith("ramster: ")
    assert text.count("\n") == 1, text
    for word in words:
        assert word in text, text


def nothing_done(tmp_path: Path) -> None:
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".sock")) == ["one"]


def test_a_join_makes_what_init_makes_but_the_authoritys_key(side: Side, tmp_path: Path) -> None:
    answer = join(make_token(side.folder), side.address, tmp_path / "two")
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert answer.stdout.decode().splitlines() == [
        f"joined: this is node 2, its files are in {tmp_path}/two",
        "next, start it:",
        f"  ramster node --config {tmp_path}/two/node.toml",
    ]
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "two").iterdir()}
    assert modes == {"ca.pem": 0o644, "node.pem": 0o600, "clients.pem": 0o600, "peers.json": 0o600, "node.toml": 0o644}
    assert (tmp_path / "two").stat().st_mode & 0o777 == 0o700
    found = credentials.load(files.Directory(str(tmp_path / "two")))
    assert found.node == 2
    assert found.roots == side.side.trust.credentials.roots


def test_the_keys_of_a_join_never_travel(side: Side, tmp_path: Path) -> None:
    """All that the signer says and hears is in its memory and files: neither has the joiner's keys."""
    seen: list[dict[str, Any]] = []
    decode = lines.decode

    def spy(line: bytes) -> dict[str, Any]:
        seen.append(decode(line))
        return seen[-1]

    lines.decode = spy
    try:
        assert join(make_token(side.folder), side.address, tmp_path / "two").returncode == 0
    finally:
        lines.decode = decode
    assert [message["type"] for message in seen] == ["authority", "join"]
    assert "PRIVATE" not in json.dumps(seen)


def test_a_token_can_come_by_standard_input(side: Side, tmp_path: Path) -> None:
    token = make_token(side.folder)
    options = {"stdin": None, "input": token.encode() + b"\n"}
    assert join("-", side.address, tmp_path / "two", **options).returncode == 0


def test_a_used_or_expired_token_and_a_taken_id_are_one_line_each(side: Side, tmp_path: Path) -> None:
    token = make_token(side.folder)
    one_line(join(token, side.address, tmp_path / "two", "--id", "1"), "id 1 is taken")
    assert join(token, side.address, tmp_path / "two", "--id", "5").returncode == 0
    one_line(join(token, side.address, tmp_path / "three"), "was used, or has expired", "ramster token")
    assert not (tmp_path / "three").exists()


def test_a_token_of_another_cluster_is_told_and_still_good(side: Side, tmp_path: Path) -> None:
    make_cluster(tmp_path / "other")
    token = make_token(tmp_path / "other")
    one_line(join(token, side.address, tmp_path / "two"), "another authority", "still good")
    assert not (tmp_path / "two").exists()
    assert side.counts().get("join_refused_token_unknown") is None


@pytest.mark.parametrize("text", ["", "x", "ramster1.AAAA", "-x"])
def test_what_is_no_token_is_told_before_anything_happens(tmp_path: Path, text: str) -> None:
    answer = ramster("join", "--dir", str(tmp_path / "n"), "--listen", "127.0.0.1:7946", "--", text, "127.0.0.1:9")
    assert answer.returncode == 2
    assert answer.stderr.count(b"\n") == 1
    assert not (tmp_path / "n").exists()


class ManInTheMiddle:
    """Answers as the real node would, with its real and public certificate, but has no key of the cluster."""

    def __init__(self, roots: str, folder: Path) -> None:
        self.heard: list[bytes] = []
        root = authority.make_authority(authority.utc_now())
        key = authority.make_key()
        text = authority.pem(authority.sign_node(root, key.public_key(), 1, authority.utc_now()))
        (folder / "mitm.pem").write_text(authority.key_pem(key) + text)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "mitm.pem")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._answer = {"type": "authority", "roots": roots, "signer": 1, "control": self.address}
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(accepted, server_side=True) as link:
                    self.heard.append(link.recv(65536))
                    link.sendall(lines.encode(self._answer))
            except OSError:
                pass

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("shows_real_roots", [True, False])
def test_a_man_in_the_middle_never_hears_the_secret(side: Side, tmp_path: Path, shows_real_roots: bool) -> None:
    token = make_token(side.folder)
    (tmp_path / "mitm").mkdir()
    false_root = authority.pem(authority.make_authority(authority.utc_now()).certificate)
    middle = ManInTheMiddle(side.side.trust.credentials.roots if shows_real_roots else false_root, tmp_path / "mitm")
    try:
        words = "has no certificate of node-1.ramster" if shows_real_roots else "another authority"
        one_line(join(token, middle.address, tmp_path / "two"), words, "the token was not told")
    finally:
        middle.close()
    assert all(b"join" not in heard for heard in middle.heard)
    assert not (tmp_path / "two").exists()
    assert join(token, side.address, tmp_path / "two").returncode == 0


def test_another_member_cannot_pose_as_the_node_that_signs(side: Side, tmp_path: Path) -> None:
    """Node 2 is a good member, says that it signs, and would like the token's secret."""
    token = make_token(side.folder)
    middle = ManInTheMiddle(side.side.trust.credentials.roots, tmp_path)
    signer = credentials.load_authority(files.Directory(str(side.folder)))
    key = authority.make_key()
    certificate = authority.sign_node(signer, key.public_key(), 2, authority.utc_now())
    (tmp_path / "mitm.pem").write_text(authority.key_pem(key) + authority.pem(certificate))
    middle._context.load_cert_chain(tmp_path / "mitm.pem")
    try:
        one_line(join(token, middle.address, tmp_path / "two"), "has no certificate of node-1.ramster")
    finally:
        middle.close()
    assert all(b"join" not in heard for heard in middle.heard)


def test_nobody_there_or_no_control_port_is_one_line(tmp_path: Path, side: Side) -> None:
    token = make_token(side.folder)
    one_line(join(token, free_address(), tmp_path / "two"), "no node at", "connection refused")
    one_line(join(token, "no.such.host.invalid", tmp_path / "two"), "no.such.host.invalid:7947")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(100)
                accepted.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        one_line(join(token, address, tmp_path / "two"), "does not speak as a control port")
        thread.join(20)
    nothing_done(tmp_path)


def test_a_full_disk_is_told_before_the_token_is_spent(side: Side, tmp_path: Path) -> None:
    need("unshare", "mount")
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    token = make_token(side.folder)
    (tmp_path / "small").mkdir()
    command = f"{' '.join(RAMSTER)} join {token} {side.address} --listen 127.0.0.1:7946 --dir {tmp_path}/small/two"
    script = (
        f"mount -t tmpfs -o size=32k none {tmp_path}/small && {command}; code=$?; ls -A {tmp_path}/small; exit $code"
    )
    answer = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, timeout=60)
    one_line(answer, "no space left", "--dir")
    assert answer.stdout == b""
    assert join(token, side.address, tmp_path / "two").returncode == 0


def test_a_directory_that_is_there_is_told_before_anybody_is_asked(side: Side, tmp_path: Path) -> None:
    token = make_token(side.folder)
    before = side.counts().get("links_accepted", 0)
    one_line(join(token, side.address, side.folder), "nothing is overwritten")
    assert side.counts().get("links_accepted", 0) == before
    assert join(token, side.address, tmp_path / "two").returncode == 0


def test_two_joins_at_once_with_one_token_make_one_node(side: Side, tmp_path: Path) -> None:
    token = make_token(side.folder)
    answers: list[subprocess.CompletedProcess[bytes]] = []
    threads = [
        threading.Thread(target=lambda name=name: answers.append(join(token, side.address, tmp_path / name)))
        for name in ("two", "three")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answer.returncode for answer in answers) == [0, 1]
    assert (tmp_path / "two").exists() != (tmp_path / "three").exists()
    assert not list(tmp_path.glob("*.new-*"))


def test_a_token_is_made_only_where_the_authoritys_key_is(side: Side, tmp_path: Path) -> None:
    assert join(make_token(side.folder), side.address, tmp_path / "two").returncode == 0
    answer = ramster("token", "--dir", str(tmp_path / "two"))
    assert answer.returncode == 2
    assert b"run ramster token on the node that has it" in answer.stderr
    for expires in ("1", "h", "0h", "-1h", "31d", "1w"):
        assert ramster("token", "--dir", str(side.folder), "--expires", expires).returncode == 2


def test_rotate_gives_new_keys_here_and_from_the_node_that_signs(side: Side, tmp_path: Path) -> None:
    assert join(make_token(side.folder), side.address, tmp_path / "two").returncode == 0
    for folder in (side.folder, tmp_path / "two"):
        directory = files.Directory(str(folder))
        before = credentials.load(directory)
        answer = ramster("rotate", "--dir", str(folder), "--json")
        assert answer.returncode == 0, answer.stderr
        after = credentials.load(directory)
        assert json.loads(answer.stdout)["node"] == before.node == after.node
        assert before.own.certificate != after.own.certificate
        assert before.own.certificate.public_key() != after.own.certificate.public_key()
        assert before.clients.certificate.public_key() != after.clients.certificate.public_key()
    side.stop()
    before = credentials.load(directory)
    one_line(ramster("rotate", "--dir", str(tmp_path / "two")), "did not sign", "is it running?")
    assert credentials.load(directory).own.certificate == before.own.certificate


def test_a_node_past_its_half_life_renews_by_itself(
    side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    assert join(make_token(side.folder), side.address, tmp_path / "two").returncode == 0
    directory = files.Directory(str(tmp_path / "two"))
    signer = credentials.load_authority(files.Directory(str(side.folder)))
    old = credentials.load(directory)
    then = authority.utc_now() - timedelta(days=200)
    certificate = authority.sign_node(signer, old.own.key.public_key(), 2, then)
    credentials.write_pair(directory, files.NODE, certificate, old.own.key)
    two = Side(tmp_path / "two")
    try:
        from conftest import wait_for

        wait_for(lambda: two.changes, "it renews and notices")
        assert authority.half_life(credentials.load(directory).own.certificate) > authority.utc_now()
    finally:
        two.stop()
