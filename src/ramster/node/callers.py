"""Who is on the other end of a Unix socket, by the kernel's word (SO_PEERCRED). Not: what they may say (`daemon`)."""

from __future__ import annotations

import os
import socket
import struct

from ramster.errors import RefusedError

# struct ucred: pid, uid, gid
_CREDENTIALS = struct.Struct("3i")


def check(link: socket.socket) -> None:
    """Raises RefusedError unless root or this process's own user is on the other end."""
    raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(raw)
    if user not in (0, os.geteuid()):
        raise RefusedError(
            f"process {pid} is of another user (uid {user}); only root and uid {os.geteuid()} may speak here"
        )
