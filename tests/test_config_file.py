"""The TOML file: what it means, and that every mistake is told with its line and cure."""

import pytest

from ramster.config import file
from ramster.config.cluster import ClusterTable
from ramster.config.lines import line_of
from ramster.errors import ConfigError

GOOD = """\
[node]
id = 1
listen = "127.0.0.1:7946"
offer = "25%"
socket = "/tmp/n.sock"

[[peers]]
id = 2
address = "127.0.0.1:7947"

[[peers]]
id = 3
address = "[::1]:7948"

[run]
local = "1G"
spill = "/var/tmp"
"""


def read(text: str) -> file.File:
    return file.parse(text, path="node.toml", ram_bytes=16 << 30)


def test_a_whole_file_is_read() -> None:
    found = read(GOOD)
    assert found.node == file.NodeTable(1, "127.0.0.1:7946", 4 << 30, "/tmp/n.sock")
    assert [(peer.id, peer.address) for peer in found.peers] == [(2, "127.0.0.1:7947"), (3, "[::1]:7948")]
    assert found.run == {"local": "1G", "spill": "/var/tmp"}


@pytest.mark.parametrize(
    ("before", "after", "line", "words"),
    [
        ("offer =", "ofer =", 4, ["unknown key 'ofer'", "did you mean 'offer'?"]),
        ("id = 3", "idd = 3", 12, ["unknown key 'idd'", "'id'"]),
        ("[run]", "[rum]", 15, ["unknown key 'rum'", "'run'"]),
        ("local =", "lokal =", 16, ["unknown key 'lokal'", "'local'"]),
        ("id = 1", 'id = "one"', 2, ["node.id must be", "'one'"]),
        ("id = 1", "id = true", 2, ["node.id must be"]),
        ("id = 1", "id = 0", 2, ["node.id must be"]),
        ('"25%"', '"much"', 4, ["node.offer", "'much'", "8G"]),
        ('"127.0.0.1:7946"', '"127.0.0.1"', 3, ["node.listen", "host:port"]),
        ('"127.0.0.1:7946"', '"0.0.0.0:7946"', 3, ["other machines", "127.0.0.1"]),
        ('"127.0.0.1:7946"', '"127.0.0.1:70000"', 3, ["65535"]),
        ('"[::1]:7948"', '"::1:7948"', 13, ["brackets"]),
        ('listen = "127.0.0.1:7946"\n', "", 1, ["'listen' is missing", "127.0.0.1:7946"]),
        ("id = 1", "id = ", 2, ["is not TOML"]),
        ("[node]", "[node", 1, ["is not TOML"]),
    ],
)
def test_a_mistake_is_told_with_file_line_and_cure(before: str, after: str, line: int, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(GOOD.replace(before, after, 1))
    message = str(caught.value)
    assert message.startswith(f"node.toml:{line}: "), message
    assert "\n" not in message
    for word in words:
        assert word in message


CLUSTER = """\
[cluster]
membership = "etcd"
death_ms = 6000
name = "lab-1"
etcd = ["https://10.0.0.1:2379", "http://127.0.0.1:2379"]
etcd_ca = "/ca.pem"
etcd_cert = "/n.pem"
etcd_key = "/n.key"
etcd_user = "ramster"
etcd_password_file = "/word"
"""


def test_a_cluster_is_read_and_static_without_one() -> None:
    assert read(GOOD).cluster == ClusterTable(None, None, "static", 5000)
    found = read(CLUSTER).cluster
    assert (found.membership, found.death_ms, found.name, len(found.etcd)) == ("etcd", 6000, "lab-1", 2)
    assert (found.etcd_ca, found.etcd_cert, found.etcd_key) == ("/ca.pem", "/n.pem", "/n.key")


@pytest.mark.parametrize(
    ("before", "after", "line", "words"),
    [
        ("death_ms", "dead_ms", 3, ["unknown key 'dead_ms'", "did you mean 'death_ms'?"]),
        ("6000", "499", 3, ["cluster.death_ms must be a whole number from 500", "not 499"]),
        ("6000", "2999", 3, ["3000 or more with etcd"]),
        ("6000", '"5s"', 3, ["cluster.death_ms must be", "'5s'"]),
        ('"etcd"', '"gossip"', 2, ['"static" or "etcd"', "'gossip'"]),
        ('"etcd"', '"static"', 5, ['is for membership = "etcd"']),
        ('"lab-1"', '"a/b"', 4, ["cluster.name", "'a/b'"]),
        ('["https://10.0.0.1:2379", "http://127.0.0.1:2379"]', "[]", 5, ["etcd is missing"]),
        ('"https://10.0.0.1:2379"', '"10.0.0.1:2379"', 5, ["cluster.etcd must be", "'10.0.0.1:2379'"]),
        ('"https://10.0.0.1:2379"', '"https://10.0.0.1:2379/v3"', 5, ["cluster.etcd must be"]),
        ('"https://10.0.0.1:2379"', "7", 5, ["cluster.etcd must be", "not 7"]),
        ('"https://10.0.0.1:2379"', '"http://10.0.0.1:2379"', 5, ["not encrypted", "https://"]),
        ('etcd_key = "/n.key"\n', "", 7, ["etcd_cert needs etcd_key beside it"]),
        ('etcd_user = "ramster"\n', "", 9, ["etcd_password_file needs etcd_user beside it"]),
    ],
)
def test_a_mistake_about_the_cluster_is_told_with_file_line_and_cure(
    before: str, after: str, line: int, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(CLUSTER.replace(before, after, 1))
    message = str(caught.value)
    assert message.startswith(f"node.toml:{line}: "), message
    for word in words:
        assert word in message


@pytest.mark.parametrize("text", ["peers = 3", "cluster = 3", "node = 3", "[[node]]\nid = 1", 'peers = ["a"]'])
def test_a_table_of_the_wrong_shape_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="must be"):
        read(text)


def test_a_missing_file_is_told_by_its_path() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/x\.toml: cannot be read"):
        file.read("/nowhere/x.toml", ram_bytes=1 << 30)


def test_the_line_of_a_key_is_found_in_the_right_one_of_several_tables() -> None:
    assert line_of(GOOD, "peers", "id", 0) == 8
    assert line_of(GOOD, "peers", "id", 1) == 12
    assert line_of(GOOD, "run") == 15
    assert line_of(GOOD, "node", "nothing") is None


CERTIFIED = """\
[node]
id = 2
listen = "192.0.2.2:7946"
control = "192.0.2.2:7947"
offer = "1G"

[cluster]
dir = "keys"
authority = 1
"""


def test_a_node_with_certificates_listens_where_others_reach_it() -> None:
    found = file.parse(CERTIFIED, path="/etc/r/node.toml", ram_bytes=16 << 30)
    assert found.node is not None
    assert (found.node.listen, found.node.control) == ("192.0.2.2:7946", "192.0.2.2:7947")
    assert found.cluster == ClusterTable("/etc/r/keys", 1)
    assert file.parse(CERTIFIED.replace('"keys"', '"/k"'), path="n", ram_bytes=1 << 30).cluster == ClusterTable("/k", 1)


@pytest.mark.parametrize(
    ("before", "after", "line", "words"),
    [
        ('listen = "192.0.2.2:7946"', 'listen = "0.0.0.0:7946"', 3, ["node.listen", "numeric address"]),
        ('listen = "192.0.2.2:7946"', 'listen = "somewhere:7946"', 3, ["node.listen", "numeric address"]),
        ('control = "192.0.2.2:7947"', 'control = "[::]:7947"', 4, ["node.control", "numeric address"]),
        ('control = "192.0.2.2:7947"', "control = 7947", 4, ["node.control must be"]),
        ("authority = 1", "authority = 0", 9, ["cluster.authority"]),
        ("authority = 1", "", 7, ["'authority' is missing"]),
        ('dir = "keys"\n', "", 7, ["'dir' is missing"]),
        ('dir = "keys"', 'folder = "keys"', 8, ["unknown key 'folder'"]),
        ('[cluster]\ndir = "keys"\nauthority = 1\n', "", 3, ["other machines", "ramster init"]),
    ],
)
def test_a_mistake_about_certificates_is_told_too(before: str, after: str, line: int, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(CERTIFIED.replace(before, after, 1))
    message = str(caught.value)
    assert message.startswith(f"node.toml:{line}: "), message
    for word in words:
        assert word in message


def test_a_control_port_without_certificates_is_refused() -> None:
    text = CERTIFIED.replace("192.0.2.2", "127.0.0.1").split("[cluster]")[0]
    with pytest.raises(ConfigError, match=r"node\.toml:4: node\.control needs certificates"):
        read(text)


def test_the_file_that_init_writes_is_read_as_it_was_meant() -> None:
    from ramster.config import template

    text = template.text(
        "init", "/x/node.toml", node=3, listen="[2001:db8::1]:1", control="[2001:db8::1]:2", offer="25%", authority=1,
        socket='/a "b"\\c',
    )  # fmt: skip
    found = file.parse(text, path="/x/node.toml", ram_bytes=16 << 30)
    assert found.node == file.NodeTable(3, "[2001:db8::1]:1", 4 << 30, '/a "b"\\c', "[2001:db8::1]:2")
    assert found.cluster == ClusterTable("/x", 1)
