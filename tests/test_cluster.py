"""The static membership: the file's peers and what is heard of them."""

import pytest

from ramster.cluster.static import Members
from ramster.errors import ConfigError


def members() -> Members:
    return Members(1, [(2, "127.0.0.1:2"), (3, "127.0.0.1:3")], path="n.toml")


def test_a_peer_is_in_the_view_until_it_is_known_to_be_down_and_again_when_it_is_back() -> None:
    found = members()
    assert [peer["node"] for peer in found.view()] == [2, 3]
    assert found.missed(2, "refused")
    assert not found.missed(2, "refused")
    assert [peer["node"] for peer in found.view()] == [3]
    assert found.heard(2, 5, offered_bytes=10, foreign_bytes=4)
    assert not found.heard(2, 6, offered_bytes=10, foreign_bytes=5)
    assert found.view()[0] == {"node": 2, "address": "127.0.0.1:2"}
    assert found.up_count() == 1
    assert found.get(2).as_dict()["foreign_bytes"] == 5


@pytest.mark.parametrize("peers", [[(1, "127.0.0.1:2")], [(2, "127.0.0.1:2"), (2, "127.0.0.1:3")]])
def test_two_nodes_with_one_id_are_refused(peers: list[tuple[int, str]]) -> None:
    with pytest.raises(ConfigError, match="id of its own"):
        Members(1, peers, path="n.toml")
