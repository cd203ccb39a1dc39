"""What the control port answers: tokens, joins, introductions and renewal, asked for in every wrong way too."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cluster_sides import (
    Side,
    introduction,
    join_message,
    make_cluster,
    make_token,
    pair,
    place,
    read_answer,
    signed_context,
)
from conftest import wait_for
from ramster.cluster.static import NODES_MAX
from ramster.security import authority, credentials
from ramster.transport import lines


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


def test_two_control_ports_learn_of_each_other_and_of_whom_they_know(tmp_path: Path, side: Side, own: Path) -> None:
    """A node that joined introduces itself; a third one that only the first knew of is learnt from it."""
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


def test_a_client_process_gets_new_credentials_at_half_life_and_when_its_nodes_change(side: Side) -> None:
    trust = side.side.trust
    now = authority.utc_now()
    plain, issued = trust.issue("0123456789abcdef", now)
    assert (plain["family"], plain["node"]) == ("0123456789abcdef", 1)
    chain = credentials.roots_of(plain["chain"])
    assert [certificate.subject.rfc4514_string() for certificate in chain] == [
        "CN=c0123456789abcdef.node-1.ramster",
        "CN=clients of node-1.ramster",
    ]
    assert not trust.is_due(issued, now + timedelta(hours=23))
    assert trust.is_due(issued, now + timedelta(hours=24))
    trust.refresh(force=True)
    assert trust.is_due(issued, now)


@pytest.mark.parametrize("membership", ["static", "etcd"])
def test_no_more_nodes_join_than_the_clusters_membership_is_for(tmp_path: Path, membership: str) -> None:
    """32 with static, where the last token is not spent in vain; more with etcd."""
    made = make_cluster(tmp_path / "one")
    known = [{"node": node, "listen": "192.0.2.1:1", "control": "192.0.2.1:2"} for node in range(2, NODES_MAX)]
    (tmp_path / "one" / "peers.json").write_text(json.dumps({"peers": known}))
    (tmp_path / "one" / "peers.json").chmod(0o600)
    if membership == "etcd":
        config = Path(made.directory) / "node.toml"
        keys = '[cluster]\nmembership = "etcd"\netcd = ["http://127.0.0.1:1"]\n'
        config.write_text(config.read_text().replace("[cluster]\n", keys))
    side = Side(tmp_path / "one")
    try:
        first = side.ask(join_message(make_token(side.folder)))
        assert first is not None
        assert first["node"] == NODES_MAX
        token = make_token(side.folder)
        second = side.ask(join_message(token))
        assert second is not None
        if membership == "etcd":
            assert second["node"] == NODES_MAX + 1
        else:
            assert "32 nodes, the most that its membership is for" in second["reason"]
            assert side.counts()["join_refused_full"] == 1
            assert len(json.loads((side.folder / "tokens.json").read_text())["tokens"]) == 1
    finally:
        side.stop()


def test_a_node_says_of_itself_alone_that_it_leaves(side: Side, own: Path) -> None:
    five, six = signed_context(side.folder, 5, own), signed_context(side.folder, 6, own)
    for context, node in ((five, 5), (six, 6)):
        side.ask(introduction(node), context)
    draining = {"type": "leave", "phase": "draining", "incarnation": 7}
    assert side.ask({**draining, "node": 6}, five) == {"type": "heard"}
    assert side.leaving[-1] == (5, True)
    assert side.ask({**draining, "phase": "stays"}, five) == {"type": "heard"}
    assert side.leaving[-1] == (5, False)
    assert side.ask({**draining, "phase": "left", "node": 6}, five) == {"type": "heard"}
    assert side.forgotten == [(5, 7)]
    assert [peer.node for peer in side.side.peers] == [6]
    for wrong in ({"phase": "gone"}, {"incarnation": True}, {"incarnation": -1}, {"incarnation": 1 << 70}):
        assert side.ask({**draining, **wrong}, six) is None
    assert side.ask(draining) is None, "a stranger"
    assert side.counts()["ended_bad_message"] == 4
    # What others say of it is no news: it left. Its own word is.
    side.ask(introduction(5), five)
    assert [peer.node for peer in side.side.peers] == [6, 5]
    assert side.side.departures.left == {}


def test_who_is_gone_is_heard_from_the_node_that_signs_alone(side: Side, own: Path) -> None:
    message = {"type": "departed", "version": 99, "revoked": [6], "left": []}
    answer = side.ask(message, signed_context(side.folder, 5, own))
    assert answer == {"type": "refused", "reason": "node 5 does not sign; who is gone node 1 says"}
    assert side.side.departures.revoked == set()
    signer = signed_context(side.folder, 1, own)
    for wrong in ({"version": -1}, {"revoked": [0.5]}, {"revoked": 3}, {"left": [[1]]}, {"left": [[1, -1]]}, {"version": True},
                  {"revoked": list(range(1, 2000))}):  # fmt: skip
        answer = side.ask({**message, **wrong}, signer)
        assert answer is not None
        assert answer["type"] == "refused", wrong
    six = signed_context(side.folder, 6, own)
    assert side.ask(introduction(6), six) is not None
    assert side.ask({**message, "left": [[7, 5]]}, signer) == {"type": "heard"}
    assert side.forgotten == [(6, None), (7, 5)]
    # Its certificate opens the port no more, and nobody makes it known again.
    assert side.ask(introduction(6), six) is None
    assert side.ask({"type": "status"}, six) is None
    assert side.counts()["ended_revoked"] == 2
    # An earlier list takes nothing back, and the own id is never gone.
    assert side.ask({**message, "version": 3, "revoked": [1]}, signer) == {"type": "heard"}
    assert side.side.departures.revoked == {6}
    side.stop()
    again = Side(side.folder)
    assert (again.side.departures.revoked, again.side.departures.left) == ({6}, {7: 5})
    again.stop()
