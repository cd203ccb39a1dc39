"""`ramster set`: what an operator may change at run time, and that running programs and holders obey at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from conftest import RAMSTER, NodeUnderTest, ramster, wait_for
from ramster.errors import ConfigError
from ramster.policy.knobs import Knobs, turn

# Keeps 64 MiB that do not compress, and writes to every page in turn until its input ends.
CHURN = """
import random, select, sys
blocks = [bytearray(random.randbytes(65536)) for _ in range(1000)]
print("ready", flush=True)
turn = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    block = blocks[turn % 1000]
    for at in range(0, 65536, 4096):
        block[at] = (block[at] + 1) % 256
    turn += 1
"""


def set_(node: NodeUnderTest, key: str, value: str) -> subprocess.CompletedProcess[bytes]:
    return ramster("set", key, value, "--node", str(node.socket))


def test_each_key_takes_its_values_and_says_what_others_should_be() -> None:
    knobs = Knobs()
    written = {
        "remotify": "off", "remotify-persistent": "off", "remotify-ephemeral": "on", "self-shrinking": "off",
        "targets": "2,5", "codec": "zstd",
        "remote-codec": "lz4", "durability": "copies=2", "offer": "1 GiB", "reserve": "512 MiB", "log": "debug",
        "log.control": "error",
    }  # fmt: skip
    for key, value in written.items():
        knobs = turn(knobs, key, value.removesuffix("iB").replace(" ", ""), ram_bytes=1 << 30)
    shown = knobs.as_dict()
    assert {key: shown[key] for key in written} == written
    assert {value for key, value in shown.items() if key not in written} == {"-"}
    assert knobs.directives({"remotify": True, "resident_bytes": 5}) == {
        "remotify": False, "remotify_persistent": False, "remotify_ephemeral": True, "resident_bytes": 5, "codec": "zstd",
        "remote_codec": "lz4", "durability": {"copies": 2}, "repatriate": False,
    }  # fmt: skip
    assert knobs.directives({"repatriate": True})["repatriate"] is False
    assert Knobs().directives({"repatriate": False})["repatriate"] is False, "a short machine"
    assert knobs.targeted([{"node": 2}, {"node": 3}, {"node": 5}]) == [{"node": 2}, {"node": 5}]
    assert turn(knobs, "targets", "auto", ram_bytes=1).targeted([{"node": 3}]) == [{"node": 3}]
    assert knobs.levels() == {"ramster": "DEBUG", "ramster.control": "ERROR"}
    for key, value, words in [
        ("remotify", "maybe", "write on or off"),
        ("codec", "lzo", "write lz4 or zstd"),
        ("durability", "copies=9", "copies=1 to copies=3"),
        ("durability", "ec=9", "write ec=K"),
        ("offer", "much", "offer"),
        ("reserve", "101%", "reserve"),
        ("targets", "2,x", "write ids with commas"),
        ("targets", "", "write ids with commas"),
        ("log.control", "loud", "write debug or"),
        ("log.contrl", "debug", "did you mean log.control"),
        ("remotifi", "on", "did you mean remotify"),
        ("x", "y", "known are remotify"),
    ]:
        with pytest.raises(ConfigError, match=words):
            turn(knobs, key, value, ram_bytes=1 << 30)


def test_what_policy_forbids_an_operator_does_not_allow() -> None:
    assert Knobs().directives({"remotify": False, "repatriate": False}) == {"remotify": False, "repatriate": False}


def test_a_bad_key_is_one_line_and_what_was_set_is_shown(start_node: Callable[..., NodeUnderTest]) -> None:
    node = start_node()
    answer = set_(node, "remotifi", "on")
    assert (answer.returncode, answer.stdout, answer.stderr.count(b"\n")) == (2, b"", 1)
    assert b"did you mean remotify?" in answer.stderr
    assert ramster("set", "codec", "--node", str(node.socket)).returncode == 2
    answer = set_(node, "remote-codec", "zstd")
    assert (answer.returncode, answer.stdout) == (0, b"remote-codec = zstd\n")
    shown = json.loads(ramster("set", "--json", "--node", str(node.socket)).stdout)
    assert (shown["remotify"], shown["targets"], shown["remote-codec"], shown["log.control"]) == (
        "on",
        "auto",
        "zstd",
        "-",
    )


def test_a_subsystem_logs_as_much_as_it_is_told_to(start_node: Callable[..., NodeUnderTest]) -> None:
    node = start_node(1, peers={2: "127.0.0.1:1"})
    assert set_(node, "log", "warning").returncode == 0
    assert set_(node, "log.membership", "debug").returncode == 0
    wait_for(lambda: "ramster.membership: peer 2 (127.0.0.1:1)" in node.log.read_text(), "a heartbeat in the log")
    before = node.log.read_text()
    assert "ramster.policy" not in before
    assert set_(node, "log.policy", "debug").returncode == 0
    wait_for(lambda: "ramster.policy: offers" in node.log.read_text()[len(before) :], "a decision in the log")
    assert set_(node, "log.membership", "error").returncode == 0
    assert "set: log.membership" not in node.log.read_text(), "the rest says no more than warnings"


def test_pages_go_to_the_targets_alone(start_node: Callable[..., NodeUnderTest]) -> None:
    two, three = start_node(2, offer="256M"), start_node(3, offer="256M")
    home = start_node(1, peers={2: two.address, 3: three.address})
    wait_for(lambda: [node["state"] for node in home.status()["nodes"]] == ["up"] * 3, "all are up")
    assert set_(home, "targets", "3").returncode == 0
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--node", str(home.socket), "--", sys.executable, "-c", CHURN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip

    def held(node: NodeUnderTest) -> int:
        return int(node.status()["nodes"][0]["foreign_bytes"])

    wait_for(lambda: held(three) > 8 << 20, "pages at the target")
    assert held(two) == 0
    assert set_(home, "targets", "2").returncode == 0
    wait_for(lambda: held(two) > 8 << 20, "pages at the other target")
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0


def test_running_programs_and_holders_obey_at_once(start_node: Callable[..., NodeUnderTest]) -> None:
    holder = start_node(2, offer="256M")
    home = start_node(1, peers={2: holder.address})
    process = subprocess.Popen(
        [*RAMSTER, "run", "--local", "16M", "--node", str(home.socket), "--", sys.executable, "-c", CHURN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    def sent() -> int:
        clients: list[dict[str, Any]] = home.status()["clients"]
        return int(clients[0]["stats"].get("pages_remotified", 0)) if clients else 0

    def rests() -> bool:
        """Nothing was sent between two reports of the program that are a second apart."""
        before = sent()
        end = wait_for(lambda: home.status()["clients"][0]["stats"].get("faults", 0), "a report")
        wait_for(lambda: home.status()["clients"][0]["stats"]["faults"] > end + 100, "the program goes on")
        return sent() == before

    wait_for(lambda: sent() > 1000, "pages on their way")
    assert set_(home, "remotify", "off").returncode == 0
    wait_for(rests, "nothing more is sent")
    assert set_(home, "remotify", "on").returncode == 0
    before = sent()
    wait_for(lambda: sent() > before + 1000, "pages on their way again")
    assert set_(holder, "offer", "0").returncode == 0
    wait_for(lambda: holder.status()["nodes"][0]["foreign_bytes"] == 0, "the holder empty", seconds=60)
    process.communicate(b"\n", timeout=60)
    assert process.returncode == 0
