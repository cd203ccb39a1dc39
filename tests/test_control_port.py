"""The control port: what strangers and members get from it, and that nothing they do stops or fills it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster_sides import (
    Side,
    context_of,
    introduction,
    make_cluster,
    node_context,
    pair,
    read_answer,
    signed_context,
)
from conftest import wait_for
from ramster.node import control, limits
from ramster.security import authority, credentials, files
from ramster.transport import control as asking
from ramster.transport import lines


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


def test_a_member_that_asks_without_end_is_slowed_down(side: Side, own: Path) -> None:
    context = signed_context(side.folder, 5, own)
    answers = [side.ask({"type": "status"}, context) for _ in range(40)]
    refused = [answer for answer in answers if answer and answer["type"] == "refused"]
    assert refused
    assert side.counts()["member_over_rate"] == len(refused)
    assert is_served(side)


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


def test_all_addresses_together_have_a_limit_and_members_still_get_in(side: Side, own: Path) -> None:
    member = signed_context(side.folder, 5, own)
    count = 10
    kept = [
        socket.create_connection(pair(side.address), 20, source_address=(f"127.0.0.{10 + index % count}", 0))
        for index in range(count * 10)
    ]
    try:
        wait_for(lambda: side.counts()["links_accepted"] == len(kept), "all were taken")
        assert side.counts()["links"] <= control.LINKS_MAX
        answer = side.ask({"type": "status"}, member)
        assert answer is not None
        assert answer["type"] == "status"
        assert side.counts()["ended_crowded_out"] >= len(kept) - control.LINKS_MAX
    finally:
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


def test_a_caller_of_the_port_has_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        context = credentials.trusting_nobody()
        with pytest.raises(TimeoutError):
            asyncio.run(asking.ask(host, port, {}, context=context, name=None, deadline_ms=300))
