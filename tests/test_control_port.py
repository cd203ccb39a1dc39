"""The control port: what strangers and members get from it, and that nothing they do stops or fills it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_sides import (
    Side,
    context_of,
    make_cluster,
    make_token,
    node_context,
    read_answer,
    signed_context,
)  # fmt: skip
from conftest import wait_for
from ramster.config import addresses
from ramster.node import control, limits
from ramster.security import authority, credentials, files, tokens
from ramster.transport import control as asking
from ramster.transport import lines

ROUNDS = 200


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    """The control port of a new cluster's first node."""
    make_cluster(tmp_path / "one")
    found = Side(tmp_path / "one")
    yield found
    found.stop()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An empty directory for the test's own keys."""
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def join_message(token_text: str, **changes: Any) -> dict[str, Any]:
    token = tokens.read(token_text)
    return {
        "type": "join", "token": token.id, "secret": token.secret.hex(), "node": None,
        "request": authority.make_request(authority.make_key()),
        "clients_request": authority.make_request(authority.make_key()),
        "listen": "192.0.2.7:7946", "control": "192.0.2.7:7947", **changes,
    }  # fmt: skip


def pair(address: str) -> tuple[str, int]:
    return addresses.split(address, of="address")


def introduction(node: int, port: int = 7946) -> dict[str, Any]:
    return {"type": "introduce", "node": node, "listen": f"192.0.2.{node}:{port}", "control": f"192.0.2.{node}:7947"}


def is_served(side: Side) -> bool:
    answer = side.ask({"type": "authority"})
    return answer is not None and answer["type"] == "authority"


def test_a_stranger_learns_the_authority_which_is_public_and_no_more(side: Side) -> None:
    answer = side.ask({"type": "authority"})
    assert answer is not None
    assert set(answer) == {"type", "roots", "signer", "control"}
    assert answer["roots"] == (side.folder / "ca.pem").read_text()
    assert (answer["signer"], answer["control"]) == (1, side.address)


@pytest.mark.parametrize(
    "message",
    [{"type": "status"}, introduction(5), {"type": "renew"}, {"type": "register", "pid": 1}, {}, {"type": []}],
)
def test_anything_else_of_a_stranger_ends_the_link_without_an_answer(side: Side, message: dict[str, Any]) -> None:
    assert side.ask(message) is None
    assert side.counts()["ended_not_for_strangers"] == 1
    assert side.learnt == []


@pytest.mark.parametrize(
    "line", [b"\n", b"[]\n", b"\xff\xfe\n", b'{"a":' * 2000 + b"\n", b"x" * 100_000, b"x" * 100_000 + b"\n"]
)
def test_a_line_that_is_no_message_or_too_long_ends_the_link(side: Side, line: bytes) -> None:
    with side.link() as link, contextlib.suppress(OSError):
        link.sendall(line)
        assert read_answer(link) is None
    wait_for(lambda: side.counts().get("ended_bad_line") == 1, "it is counted")
    assert is_served(side)


def test_nothing_older_than_tls_1_3_is_spoken(side: Side) -> None:
    context = credentials.trusting_nobody()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        side.link(context)
    assert is_served(side)


def test_a_certificate_of_another_cluster_is_not_let_in(side: Side, tmp_path: Path, own: Path) -> None:
    make_cluster(tmp_path / "other")
    context = node_context(tmp_path / "other")
    context.load_verify_locations(side.folder / "ca.pem")
    assert side.ask({"type": "status"}, context) is None
    wait_for(lambda: side.counts().get("ended_bad_tls") == 1, "it is counted")


def test_a_client_process_has_no_business_here(side: Side, own: Path) -> None:
    plain, _ = side.side.trust.credentials.for_client("0123456789abcdef", authority.utc_now())
    context = context_of(plain["key"] + plain["chain"], side.folder, own)
    for kind in ("status", "authority", "join", "introduce"):
        assert side.ask({"type": kind}, context) is None
    assert side.counts()["ended_no_node"] == 4


def test_a_node_introduces_itself_and_is_kept_over_a_restart(side: Side, own: Path) -> None:
    context = signed_context(side.folder, 5, own)
    answer = side.ask(introduction(5), context)
    assert answer is not None
    assert (answer["type"], answer["node"], answer["control"]) == ("introduced", 1, side.address)
    assert side.learnt == [(5, "192.0.2.5:7946")]
    side.ask(introduction(5), context)
    assert len(side.learnt) == 1
    side.ask(introduction(5, 8000), context)
    assert side.learnt[-1] == (5, "192.0.2.5:8000")
    side.stop()
    again = Side(side.folder)
    assert [(peer.node, peer.listen) for peer in again.side.peers] == [(5, "192.0.2.5:8000")]
    again.stop()


def test_a_node_cannot_introduce_another_one(side: Side, own: Path) -> None:
    answer = side.ask(introduction(6), signed_context(side.folder, 5, own))
    assert answer == {"type": "refused", "reason": "node 5 cannot introduce node 6"}
    assert side.learnt == []
    assert side.counts()["introduce_refused_name"] == 1


@pytest.mark.parametrize(
    "change", [{"listen": "0.0.0.0:1"}, {"listen": "host:1"}, {"listen": "1.2.3.4:0"}, {"control": 3}, {"node": True},
               {"node": -5}, {"listen": "[::1%eth0]:5" + "0" * 100}, {"listen": "224.0.0.1:5"}],
)  # fmt: skip
def test_an_introduction_with_an_address_that_is_none_is_refused(side: Side, own: Path, change: dict[str, Any]) -> None:
    answer = side.ask({**introduction(5), **change}, signed_context(side.folder, 5, own))
    assert answer is not None
    assert answer["type"] == "refused"
    assert side.learnt == []


def test_a_member_that_asks_without_end_is_slowed_down(side: Side, own: Path) -> None:
    context = signed_context(side.folder, 5, own)
    answers = [side.ask({"type": "status"}, context) for _ in range(40)]
    refused = [answer for answer in answers if answer and answer["type"] == "refused"]
    assert refused
    assert side.counts()["member_over_rate"] == len(refused)
    assert is_served(side)


def test_a_token_brings_one_node_in(side: Side) -> None:
    token = make_token(side.folder)
    answer = side.ask(join_message(token))
    assert answer is not None
    assert (answer["type"], answer["node"]) == ("joined", 2)
    assert [peer["node"] for peer in answer["peers"]] == [1]
    assert side.learnt == [(2, "192.0.2.7:7946")]
    second = side.ask(join_message(token))
    assert second is not None
    assert "it was used" in second["reason"]
    assert json.loads((side.folder / "tokens.json").read_text()) == {"tokens": []}


def test_of_many_joins_with_one_token_at_once_one_wins(side: Side) -> None:
    token = make_token(side.folder)
    answers: list[dict[str, Any] | None] = []
    gate = threading.Barrier(4)

    def join() -> None:
        with side.link() as link:
            gate.wait(20)
            link.sendall(lines.encode(join_message(token)))
            answers.append(read_answer(link))

    threads = [threading.Thread(target=join) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    kinds = sorted(answer["type"] for answer in answers if answer)
    assert kinds == ["joined", "refused", "refused", "refused"]
    assert list(json.loads((side.folder / "members.json").read_text())) == ["2"]


def test_an_expired_token_is_refused_as_such(side: Side) -> None:
    token = make_token(side.folder, expires="1s")
    time.sleep(1.5)
    answer = side.ask(join_message(token))
    assert answer is not None
    assert "has expired" in answer["reason"]
    assert json.loads((side.folder / "tokens.json").read_text()) == {"tokens": []}
    assert side.learnt == []


@pytest.mark.parametrize(
    "change", [{"request": "x"}, {"clients_request": None}, {"listen": "0.0.0.0:1"}, {"control": ""}, {"node": 1}, {"node": "2"},
               {"node": 0}, {"secret": "00" * 16}, {"token": "x"}],
)  # fmt: skip
def test_a_join_that_is_refused_spends_no_token_and_gives_no_id(side: Side, change: dict[str, Any]) -> None:
    token = make_token(side.folder)
    answer = side.ask(join_message(token, **change))
    assert answer is not None
    assert answer["type"] == "refused"
    assert not (side.folder / "members.json").exists()
    answer = side.ask(join_message(token))
    assert answer is not None
    assert answer["type"] == "joined"


def test_an_id_is_never_given_twice(side: Side) -> None:
    for wanted, got in ((None, 2), (7, 7), (None, 8)):
        answer = side.ask(join_message(make_token(side.folder), node=wanted))
        assert answer is not None
        assert answer["node"] == got
    (side.folder / "peers.json").unlink()
    side.stop()
    again = Side(side.folder)
    token = make_token(side.folder)
    answer = again.ask(join_message(token, node=7))
    assert answer is not None
    assert "id 7 is taken" in answer["reason"]
    again.stop()


def test_a_signer_that_cannot_write_signs_nothing(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    token = make_token(side.folder)

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        answer = side.ask(join_message(token))
    assert answer is not None
    assert "problem of its own" in answer["reason"]
    assert side.learnt == []
    answer = side.ask(join_message(token))
    assert answer is not None
    assert answer["type"] == "joined"


def test_guessing_secrets_is_slow_and_counted(side: Side) -> None:
    token = make_token(side.folder)
    for _ in range(30):
        side.ask(join_message(token, secret=os.urandom(16).hex()))
    counts = side.counts()
    assert counts["join_refused_busy"] > 5
    assert counts["join_refused_busy"] + counts["join_refused_token_unknown"] == 30


def test_a_node_renews_its_own_name_and_no_other(side: Side, own: Path) -> None:
    key = authority.make_key()
    request = authority.make_request(key)
    message = {"type": "renew", "request": request, "clients_request": request, "node": 1}
    answer = side.ask(message, signed_context(side.folder, 5, own))
    assert answer is not None
    root = credentials.roots_of((side.folder / "ca.pem").read_text())[0]
    assert credentials.checked(answer["certificate"], root, key, node=5) is not None


def test_random_bytes_and_broken_handshakes_end_their_links_alone(side: Side) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    made = random.Random(seed)
    context = credentials.trusting_nobody()
    to_server, from_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(from_server, to_server).do_handshake()
    hello = to_server.read()
    for _ in range(60):
        data = bytearray(made.choice([made.randbytes(made.randrange(1, 3000)), hello, hello + made.randbytes(2000)]))
        for _ in range(made.randrange(4)):
            data[made.randrange(len(data))] = made.randrange(256)
        with socket.create_connection(pair(side.address), 20) as link, contextlib.suppress(OSError):
            link.sendall(data[: made.randrange(len(data)) + 1])
            if made.random() < 0.5:
                link.shutdown(socket.SHUT_WR)
                link.recv(100)
    assert is_served(side)


def test_random_lines_over_good_tls_end_their_links_alone(side: Side, own: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    made = random.Random(seed)
    member = signed_context(side.folder, 5, own)
    scalars: list[Any] = [
        None,
        True,
        -1,
        1 << 70,
        0.5,
        "",
        "x",
        "status",
        [],
        [[]],
        {},
        {"type": "join"},
        "\u0000",
        "9" * 1000,
    ]
    for _ in range(60):
        message = {
            key: made.choice(scalars) for key in ("token", "secret", "request", "listen", "node") if made.random() < 0.7
        }
        message["type"] = made.choice(["join", "introduce", "renew", "authority", *scalars])
        side.ask(message, member if made.random() < 0.5 else None)
    assert is_served(side)
    assert side.learnt == []


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_silent_and_slow_links_are_ended_and_members_get_in_meanwhile(
    side: Side, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links without a byte, and links that send one byte after another, from one address, more than there may be."""
    monkeypatch.setattr(control, "HANDSHAKE_DEADLINE_S", 1.0)
    monkeypatch.setattr(control, "LINK_DEADLINE_S", 2.0)
    member = signed_context(side.folder, 5, own)
    before = descriptors()
    silent = [socket.create_connection(pair(side.address), 20) for _ in range(30)]
    try:
        assert side.ask({"type": "status"}, member) is not None
        slow = side.link()
        started = time.monotonic()
        with contextlib.suppress(OSError), slow:
            for _ in range(100):
                slow.sendall(b"{")
                time.sleep(0.1)
        assert time.monotonic() - started < 10
        wait_for(lambda: side.counts()["links"] == 0, "every link is ended")
        assert side.counts()["ended_deadline"] >= 1
    finally:
        for link in silent:
            link.close()
    wait_for(lambda: descriptors() <= before, "no descriptor is left")


def test_a_flood_neither_fills_the_port_nor_keeps_members_out(side: Side, own: Path) -> None:
    member = signed_context(side.folder, 5, own)
    stop = threading.Event()
    opened = [0, 0]

    def flood(index: int) -> None:
        kept: list[socket.socket] = []
        while not stop.is_set():
            with contextlib.suppress(OSError):
                kept.append(socket.create_connection(pair(side.address), 5))
                opened[index] += 1
            if len(kept) > 100:
                kept.pop(0).close()
        for link in kept:
            link.close()

    threads = [threading.Thread(target=flood, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: sum(opened) > 400, "the flood has begun")
        most = 0
        served = 0
        for _ in range(5):
            most = max(most, side.counts()["links"])
            with contextlib.suppress(OSError):
                served += side.ask({"type": "status"}, member) is not None
        assert served >= 1
        assert most <= control.LINKS_MAX
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    counts = side.counts()
    assert counts["accepts_paced"] > 0
    assert counts["ended_crowded_out"] > 0
    wait_for(lambda: side.counts()["links"] == 0, "every link of the flood is ended")
    assert is_served(side)


def test_a_reader_that_takes_no_answer_is_ended(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LINK_DEADLINE_S", 1.0)
    with side.link() as link:
        link.sendall(lines.encode({"type": "authority"}))
        wait_for(lambda: side.counts()["links"] == 0, "the link is ended")


def test_one_address_cannot_take_every_place(side: Side) -> None:
    kept = [socket.create_connection(pair(side.address), 20) for _ in range(control.PER_SOURCE_MAX + 5)]
    wait_for(lambda: side.counts().get("ended_crowded_out", 0) == 5, "the oldest ones are ended")
    assert side.counts()["links"] <= control.PER_SOURCE_MAX
    assert is_served(side)
    for link in kept:
        link.close()


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = limits.Bucket(2.0, 3)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(100.6), bucket.take(100.7), bucket.take(101.2)] == [True, False, True]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_new_files_are_in_force_for_the_next_link_and_bad_ones_are_not(side: Side) -> None:
    before = side.link().getpeercert(True)
    directory = files.Directory(str(side.folder))
    credentials.issue_own(directory, credentials.load_authority(directory), 1, authority.utc_now())
    wait_for(lambda: side.changes, "the new files are noticed")
    after = side.link().getpeercert(True)
    assert before != after
    (side.folder / "node.pem").write_text("nonsense")
    time.sleep(1.5)
    assert side.link().getpeercert(True) == after
    assert len(side.changes) == 1


def test_two_control_ports_learn_of_each_other_and_of_whom_they_know(tmp_path: Path, side: Side, own: Path) -> None:
    """A node that joined introduces itself; a third one that only the first knew of is learnt from it."""
    from cluster_sides import place
    from ramster.node import joining

    side.ask(introduction(9), signed_context(side.folder, 9, own))
    where = place(tmp_path / "two")
    assert joining.join(make_token(side.folder), *pair(side.address), where, None) == 10
    (tmp_path / "two" / "peers.json").write_text(
        json.dumps({"peers": [{"node": 1, "listen": "127.0.0.1:1", "control": side.address}]})
    )
    (tmp_path / "two" / "peers.json").chmod(0o600)
    two = Side(tmp_path / "two")
    try:
        wait_for(lambda: {node for node, _ in two.learnt} == {1, 9}, "it learns of both")
        assert dict(two.learnt)[9] == "192.0.2.9:7946"
        wait_for(lambda: (10, where.listen) in side.learnt, "the first knows it")
        answer = two.ask(join_message(make_token(side.folder)))
        assert answer is not None
        assert answer["reason"] == f"this node does not sign; ask node 1 at {side.address}"
    finally:
        two.stop()


def test_what_a_member_says_of_others_never_moves_whom_we_know(side: Side) -> None:
    from ramster.node.peers import Peer

    found = side.side.peers
    assert found.introduced(Peer(4, "192.0.2.4:1", "192.0.2.4:2"))
    assert not found.heard_of(Peer(4, "192.0.2.66:1", "192.0.2.66:2"))
    assert not found.heard_of(Peer(1, "192.0.2.66:1", "192.0.2.66:2"))
    assert found.get(4) == Peer(4, "192.0.2.4:1", "192.0.2.4:2")


def test_invented_nodes_have_a_limit(side: Side) -> None:
    from ramster.node.peers import PEERS_MAX, Peer

    found = side.side.peers
    for node in range(2, PEERS_MAX + 100):
        found.heard_of(Peer(node, "192.0.2.4:1", "192.0.2.4:2"))
    assert len(list(found)) == PEERS_MAX


def test_a_caller_of_the_port_has_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        context = credentials.trusting_nobody()
        with pytest.raises(TimeoutError):
            asyncio.run(asking.ask(host, port, {}, context=context, name=None, deadline_ms=300))
