"""Where things are when nobody says: the local node's admin socket, one place a user, so that programs find their node by
themselves; a cluster's directory; the usual ports.
"""

from __future__ import annotations

import os

# Of a node that others reach: pages, and the port where nodes join and introduce themselves.
PAGE_PORT = 7946
CONTROL_PORT = 7947


def default_socket() -> str:
    """`/run/ramster/node.sock` for root, otherwise below the user's runtime directory."""
    user = os.geteuid()
    if user == 0:
        return "/run/ramster/node.sock"
    folder = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(folder, "ramster", "node.sock") if folder else f"/tmp/ramster-{user}/node.sock"


def default_directory() -> str:
    """`/etc/ramster` for root, otherwise below the user's configuration."""
    if os.geteuid() == 0:
        return "/etc/ramster"
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(folder, "ramster")
