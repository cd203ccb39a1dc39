"""What all clients of a node have counted together, those that have ended too: sums that never go down while the node runs.

Pure. Not: names (`names`), or who reports what (`node.clients`). Processes of a tree may share a stat block and all report it, so
sums are over blocks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

# Blocks that are told apart. A node has 512 clients at most, so those beyond have ended long ago; they are added up and their
# numbers forgotten.
BLOCKS_MAX = 4096


class Totals:
    """Counters and histograms by name."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[str, tuple[dict[str, int], dict[str, list[int]]]] = OrderedDict()
        self._ended: tuple[dict[str, int], dict[str, list[int]]] = ({}, {})

    def hear(self, block: str, counters: Mapping[str, int], histograms: Mapping[str, Sequence[int]]) -> None:
        """What a process says of its block now. Of two that speak of one block in the wrong order the later figures count."""
        known_counters, known_histograms = self._blocks.setdefault(block, ({}, {}))
        self._blocks.move_to_end(block)
        for name, value in counters.items():
            known_counters[name] = max(known_counters.get(name, 0), value)
        for name, words in histograms.items():
            before = known_histograms.get(name, [0] * len(words))
            if len(before) == len(words):
                known_histograms[name] = [max(pair) for pair in zip(before, words, strict=True)]
        if len(self._blocks) > BLOCKS_MAX:
            _, oldest = self._blocks.popitem(last=False)
            _add(self._ended, oldest)

    def sums(self) -> tuple[dict[str, int], dict[str, list[int]]]:
        """Counters, and each histogram's words."""
        total: tuple[dict[str, int], dict[str, list[int]]] = ({}, {})
        for block in (self._ended, *self._blocks.values()):
            _add(total, block)
        return total


def _add(
    total: tuple[dict[str, int], dict[str, list[int]]], block: tuple[dict[str, int], dict[str, list[int]]]
) -> None:
    for name, value in block[0].items():
        total[0][name] = total[0].get(name, 0) + value
    for name, words in block[1].items():
        before = total[1].get(name, [0] * len(words))
        total[1][name] = [one + other for one, other in zip(before, words, strict=True)]
