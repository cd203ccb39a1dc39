"""Where the local node's admin socket is when nobody says: one place a user, so that programs find their node by themselves."""

from __future__ import annotations

import os


def default_socket() -> str:
    """`/run/ramster/node.sock` for root, otherwise below the user's runtime directory."""
    user = os.geteuid()
    if user == 0:
        return "/run/ramster/node.sock"
    folder = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(folder, "ramster", "node.sock") if folder else f"/tmp/ramster-{user}/node.sock"
