"""Nodes with certificates whose membership is etcd's: addresses and ids come from there, links are TLS and check the id."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import check_nothing_is_left, ramster, wait_for
from etcd_cluster import EtcdUnderTest
from ramster.cluster.membership import Announcement
from ramster.cluster.registry import encode
from test_membership_etcd import etcdctl
from test_node import WORK
from test_three_nodes import Machine, do, plain


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdUnderTest]:
    (tmp_path / "etcd").mkdir()
    found = EtcdUnderTest(tmp_path / "etcd")
    yield found
    found.stop()


@pytest.fixture
def machines(tmp_path: Path, etcd: EtcdUnderTest, request: pytest.FixtureRequest) -> Iterator[list[Machine]]:
    """Two nodes of one cluster that look for each other in etcd."""
    failed = request.session.testsfailed
    one, two = made = [Machine(tmp_path / f"m{index}") for index in (1, 2)]
    try:
        do("init", *one.flags())
        register_with(etcd, one)
        one.start()
        do("join", do("token", "--dir", str(one.dir)), one.control, *two.flags())
        register_with(etcd, two)
        two.start()
        for machine in made:
            wait_for(lambda machine=machine: machine.states() == {1: "up", 2: "up"}, "both are up", 30)  # type: ignore[misc]
        yield made
        if request.session.testsfailed == failed:
            for machine in made:
                check_nothing_is_left(machine.process, machine.foreign_bytes)
    finally:
        for machine in made:
            machine.stop(signal.SIGKILL)
            print(f"--- {machine.dir}\n{machine.log.read_text() if machine.log.exists() else ''}")


def register_with(etcd: EtcdUnderTest, machine: Machine) -> None:
    config = machine.dir / "node.toml"
    keys = f'[cluster]\nmembership = "etcd"\netcd = ["{etcd.url}"]\n'
    config.write_text(config.read_text().replace("[cluster]\n", keys))


def test_pages_go_over_tls_to_the_nodes_that_etcd_names(machines: list[Machine], tmp_path: Path) -> None:
    one, two = machines
    stats = tmp_path / "stats.json"
    answer = ramster(
        "run", "--local", "16M", "--node", str(one.socket), "--stats", str(stats), "--", sys.executable, "-c", WORK
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, plain(), b"")
    found = json.loads(stats.read_text())
    assert found["pages_remotified"] > 15_000
    assert found["pages_lost"] == 0
    assert {node["address"] for node in one.status()["nodes"]} == {one.listen, two.listen}
    assert one.status()["quorum"]["reason"] == "registered with etcd"
    assert one.status()["cluster"]["authority"] == 1


def test_who_registers_a_node_in_etcd_has_not_become_it(
    machines: list[Machine], etcd: EtcdUnderTest, tmp_path: Path
) -> None:
    """Node 2's entry is replaced by node 3's, with node 2's address: a program sends nothing to a node of another name."""
    one, two = machines
    two.stop()
    wait_for(lambda: one.states() == {1: "up", 2: "down"}, "the second one has left", 30)
    two.start()
    posing = Announcement(3, two.listen, 1, 1 << 30, 1 << 30)
    etcdctl(etcd, "put", "/ramster/ramster/nodes/3", encode(posing))
    wait_for(lambda: one.states().get(3) == "up", "etcd's word is believed for who is there", 30)
    two_states = wait_for(lambda: one.states() == {1: "up", 2: "up", 3: "up"}, "all of them", 30)
    assert two_states
    stats = tmp_path / "stats.json"
    answer = ramster(
        "run", "--local", "16M", "--node", str(one.socket), "--durability", "none", "--stats", str(stats), "--",
        sys.executable, "-c", WORK,
    )  # fmt: skip
    assert (answer.returncode, answer.stdout) == (0, plain())
    assert json.loads(stats.read_text())["pages_lost"] == 0
    assert all(owner["node"] == 1 for owner in two.status()["owners"])


def test_a_node_that_leaves_is_in_etcd_no_more_and_comes_back_in_a_later_life(
    machines: list[Machine], etcd: EtcdUnderTest
) -> None:
    one, two = machines
    answer = ramster("leave", "--node", str(two.socket))
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert two.process is not None
    assert two.process.wait(20) == 0
    assert "nodes/2" not in etcdctl(etcd, "get", "--prefix", "/ramster/ramster/nodes/")
    assert one.states() == {1: "up"}
    one.stop()
    one.start()
    assert one.states() == {1: "up"}
    two.start()
    wait_for(lambda: one.states() == two.states() == {1: "up", 2: "up"}, "it is a member again", 30)
    two.stop(signal.SIGKILL)
    assert ramster("forget", "2", "--force", "--node", str(one.socket)).returncode == 0
    two.start()
    wait_for(lambda: two.status()["quorum"]["reason"] == "registered with etcd", "it registers all the same", 30)
    assert "nodes/2" in etcdctl(etcd, "get", "--prefix", "/ramster/ramster/nodes/")
    assert one.states() == {1: "up"}, "nobody believes it"
