"""`ramster leave` and `ramster forget`: orders for the local node, and what came of them. The work is `node.leaving`."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from ramster.cli import status
from ramster.config import durations, sizes
from ramster.errors import RefusedError

DEADLINE_S_MOST = 86400
# Beside the deadline: telling all others, twice, and a busy machine.
MARGIN_MS = 30_000
# The node ends once it has answered; whoever starts the next command would meet its socket otherwise.
END_S = 10.0


def leave(deadline: str, node: str | None, config: str | None, *, force: bool, wipe: bool, as_json: bool) -> int:
    """The exit code: 0 when nothing was left. Raises UsageError, StartError (no node answers) or RefusedError (it must not)."""
    deadline_s = durations.seconds(deadline, of="--deadline", most_s=DEADLINE_S_MOST, most="a day is the most")
    question = {"type": "leave", "deadline_ms": deadline_s * 1000, "force": force, "wipe": wipe}
    socket = status.socket_path(node, config)
    answer = status.ask_node(node, config, question, deadline_ms=deadline_s * 1000 + MARGIN_MS)
    if answer.get("type") == "refused":
        raise RefusedError(str(answer.get("reason")))
    has_left = answer["type"] == "left"
    if has_left:
        _wait_for_its_end(socket)
    where = _where(answer["owners"])
    if as_json:
        print(
            json.dumps({"left": has_left, **{key: value for key, value in answer.items() if key != "type"}}, indent=2)
        )
    elif has_left:
        print("this node has left the cluster: nothing of others is here any more" if not answer["left_bytes"] else
              "this node has left the cluster")  # fmt: skip
        if answer["dir"]:
            what = "were removed" if answer["wiped"] else "are still there; started again, it is a member again"
            print(f"its keys and certificates in {answer['dir']} {what}")
        _tell_untold(answer["untold"], answer["passed_on_by"])
    if answer["left_bytes"] and not has_left:
        _complain(f"leave: {sizes.show(answer['left_bytes'])} {where} were not taken away within {deadline}; "
                  "this node has not left; try again with a longer --deadline, or --force to lose them")  # fmt: skip
    elif answer["left_bytes"]:
        _complain(
            f"leave: {sizes.show(answer['left_bytes'])} {where} were not taken away within {deadline} and are gone"
        )
    return 1 if answer["left_bytes"] else 0


def forget(node_id: int, node: str | None, config: str | None, *, force: bool, as_json: bool) -> None:
    """Raises StartError when no node answers, RefusedError when it must not."""
    answer = status.ask_node(node, config, {"type": "forget", "node": node_id, "force": force}, deadline_ms=MARGIN_MS)
    if answer.get("type") == "refused":
        raise RefusedError(str(answer.get("reason")))
    if as_json:
        print(json.dumps({"node": answer["node"], "untold": answer["untold"]}, indent=2))
        return
    print(f"node {answer['node']} is forgotten: no member any more, and its certificate is revoked")
    if answer["untold"]:
        print(f"not reached: nodes {_list(answer['untold'])}; they hear of it as soon as they can be")


def _wait_for_its_end(socket: str) -> None:
    end = time.monotonic() + END_S
    while os.path.exists(socket) and time.monotonic() < end:
        time.sleep(0.02)


def _tell_untold(untold: list[int], passed_on_by: int | None) -> None:
    if not untold:
        return
    who = f"node {passed_on_by} tells them" if passed_on_by else "run ramster forget on the node that signs"
    print(f"not reached: nodes {_list(untold)}; {who}")


def _where(owners: dict[str, Any]) -> str:
    return f"of nodes {_list(sorted(owners, key=int))}" if owners else "of pages"


def _list(nodes: list[Any]) -> str:
    return ", ".join(map(str, nodes[:8])) + (" ..." if len(nodes) > 8 else "")


def _complain(text: str) -> None:
    print(f"ramster: {text}", file=sys.stderr)
