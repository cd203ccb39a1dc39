"""Who lends to whom: sums, their bounds, and answers of other nodes that say anything."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ramster.errors import RefusedError
from ramster.node import survey

GOOD: dict[str, Any] = {
    "type": "lends", "offered_bytes": 100, "used_bytes": 60, "holds": [[2, 40], [3, 5]], "holds_rest_bytes": 7,
    "yours": [["ab", 40]], "certificate_expires_s": 9,
}  # fmt: skip


def test_bytes_are_summed_by_the_node_whose_clients_they_are_of() -> None:
    owners = [{"node": node, "client": f"{n:032x}", "bytes": n} for n, node in enumerate([2, 3, 2, 2])]
    assert survey.held(owners) == {2: 5, 3: 1}


def test_an_answer_is_read_with_the_rest_as_one() -> None:
    assert survey._read(GOOD) == {
        "holds": {2: 40, 3: 5, 0: 7}, "yours": {"ab": 40}, "free_bytes": 40, "certificate_expires_s": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"type": "x"}, {"holds": None}, {"holds": [[1]]}, {"holds": [[1, -1]]}, {"holds": [[1, True]]}, {"yours": {"a": 1}},
     {"holds": [[1, 1]] * 257}, {"yours": [["a", 1]] * 513}, {"offered_bytes": 1 << 63}, {"used_bytes": "1"},
     {"holds_rest_bytes": None}, {"certificate_expires_s": 1.5}],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        survey._read({**GOOD, **change})


def test_random_answers_are_read_or_refused_and_nothing_else() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    made = random.Random(seed)

    def thing(depth: int) -> Any:
        if depth and made.random() < 0.5:
            return [thing(depth - 1) for _ in range(made.randrange(4))]
        return made.choice([None, True, -1, 0, 5, 1 << 70, 0.5, "x", {}, {"a": 1}])

    refused = 0
    for _ in range(2000):
        try:
            survey._read({key: thing(3) if made.random() < 0.3 else value for key, value in GOOD.items()})
        except RefusedError:
            refused += 1
    assert refused > 500
