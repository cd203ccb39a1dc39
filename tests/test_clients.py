"""What a node keeps of its clients' words about their disks. Not: the sockets (`test_node`), the disks (the engine's tests)."""

from __future__ import annotations

import pytest

from ramster.metrics import names
from ramster.node.clients import Client


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("ok", "ok"),
        ("hangs", "hangs"),
        ("full", "full"),
        ("failed", "failed"),
        ("<b>", "none"),
        (["ok"], "none"),
        (None, "none"),
    ],
)
def test_a_clients_disk_is_shown_by_one_of_five_words_whatever_it_says(said: object, shown: str) -> None:
    client = Client(7, "c", "program")
    client.hear({"type": "stats", "disk": said, "faults": 3})
    assert (client.as_dict()["disk"], client.as_dict()["stats"]) == (shown, {"faults": 3})


def test_the_worst_disk_of_a_process_tree_is_its_word() -> None:
    assert names.disk_word({}, has_disk=False) == "none"
    assert names.disk_word({"disk_full": 0}, has_disk=True) == "ok"
    assert names.disk_word({"disk_hangs": 1}, has_disk=True) == "hangs"
    assert names.disk_word({"disk_full": 2, "disk_hangs": 1}, has_disk=True) == "full"
    assert names.disk_word({"disk_full": 2, "disk_failed": 1}, has_disk=True) == "failed"
