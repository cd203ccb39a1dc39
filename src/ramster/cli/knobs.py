"""`ramster set`: changes what a running node and its clients do, or shows what was changed."""

from __future__ import annotations

import json
from typing import Any

from ramster.cli import status
from ramster.errors import ConfigError, UsageError


def main(key: str | None, value: str | None, node: str | None, config: str | None, *, as_json: bool) -> None:
    """Raises ConfigError for a key or value that the node does not take, StartError when no node answers."""
    if key is None:
        settings: dict[str, str] = status.ask_node(node, config, {"type": "status"})["settings"]
    elif value is None:
        raise UsageError(f"set: {key} needs a value; write: ramster set {key} VALUE")
    else:
        answer: dict[str, Any] = status.ask_node(node, config, {"type": "set", "key": key, "value": value})
        if answer.get("type") == "refused":
            raise ConfigError(str(answer.get("reason")))
        settings = {key: answer["settings"][key]}
    if as_json:
        print(json.dumps(settings, indent=2))
    else:
        for name, now in settings.items():
            print(f"{name} = {now}")
