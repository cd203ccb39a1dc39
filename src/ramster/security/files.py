"""The cluster's directory of one node: who may read it, whole files or none. Covers reading, atomic writing and the lock.

Not: what the files mean (`credentials`, `node.peers`, `node.admission`).

    ca.pem        the authority's certificate: the root of all trust. Public
    ca.key        its key, only on the node that signs
    node.pem      this node's key and certificate, together so that a rotation changes both in one step
    clients.pem   the key and certificate of this node's authority for its client processes
    tokens.json   join tokens that are not used yet (salted hashes), only on the node that signs
    members.json  the ids that were given away, only on the node that signs
    peers.json    the nodes that introduced themselves
    departed.json the nodes that left, and those whose certificates are revoked
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from typing import Any

from ramster.errors import ConfigError, StartError

ROOTS = "ca.pem"
AUTHORITY_KEY = "ca.key"
NODE = "node.pem"
CLIENTS = "clients.pem"
TOKENS = "tokens.json"
MEMBERS = "members.json"
PEERS = "peers.json"
DEPARTED = "departed.json"
CONFIG = "node.toml"
# Some thousand peers fit; nothing that we write is longer.
FILE_MAX_BYTES = 1 << 20
# Whoever holds the lock writes one small file; a disk that stalls longer is an error worth telling.
LOCK_DEADLINE_S = 5.0
# More than all that a join writes: room for it is made sure of before the token is spent.
BALLAST_BYTES = 64 << 10
_BALLAST = ".room"


class Directory:
    """One node's directory."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)

    def file(self, name: str) -> str:
        """The path of a file in it."""
        return os.path.join(self.path, name)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return os.path.exists(self.file(name))

    def read(self, name: str, *, private: bool) -> str:
        """The text of a file. Raises ConfigError: it is missing or unreadable, or it is private and others can read it."""
        path = self.file(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            cure = "make or join a cluster first: ramster init, or ramster join"
            raise ConfigError(f"{path}: cannot be read ({_why(error)}); {cure}") from None
        with open(descriptor, "rb") as stream:
            if private:
                _check_private(path, os.fstat(stream.fileno()))
            raw = stream.read(FILE_MAX_BYTES + 1)
        try:
            if len(raw) <= FILE_MAX_BYTES:
                return raw.decode()
        except UnicodeDecodeError:
            pass
        raise ConfigError(f"{path}: is no file of ours; put it back from a copy, or join again in an empty directory")

    def read_json(self, name: str, *, default: dict[str, Any]) -> dict[str, Any]:
        """A JSON object that a node keeps; `default` when there is none yet. Raises ConfigError."""
        if not self.has(name):
            return default
        try:
            found = json.loads(self.read(name, private=True))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            if name in (MEMBERS, DEPARTED):
                raise damaged(self.file(name))
            raise ConfigError(f"{self.file(name)}: is damaged; remove it: what it lists is learnt or made again")
        return found

    def write(self, name: str, text: str, *, private: bool) -> None:
        """Replaces a file as a whole: whoever reads sees the old or the new one, also after a power cut. Raises StartError."""
        temporary = self.file(f".{name}.{secrets.token_hex(4)}")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(temporary, flags, 0o600 if private else 0o644), "wb") as out:
                out.write(text.encode())
                out.flush()
                os.fsync(out.fileno())
            os.rename(temporary, self.file(name))
            _sync_directory(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            cure = "make room, or correct the permissions of the directory"
            raise StartError(f"{self.file(name)}: cannot be written ({_why(error)}); {cure}") from None

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """The same for a JSON object, 0600."""
        self.write(name, json.dumps(value, indent=1) + "\n", private=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes the tokens and the members meanwhile, in this process or another. Raises StartError."""
        end = time.monotonic() + LOCK_DEADLINE_S
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StartError(f"{self.path}: cannot be locked ({_why(error)}); correct its permissions") from None
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if time.monotonic() > end:
                        cure = "end the ramster command that holds it"
                        raise StartError(f"{self.path}: cannot be locked ({_why(error)}); {cure}") from None
                    time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def new_directory(path: str) -> Iterator[Directory]:
    """A directory (0700) that appears at `path` with all that was written into it, or not at all.

    Raises StartError when `path` is there and not empty, or when it cannot be made. Room for the files is made sure of at once.
    """
    path = os.path.abspath(path)
    need_free(path)
    staged = f"{path}.new-{secrets.token_hex(4)}"
    try:
        with _told(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.mkdir(staged, 0o700)
            _make_room(os.path.join(staged, _BALLAST))
        yield Directory(staged)
        with _told(path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(staged, _BALLAST))
            os.rename(staged, path)  # over an empty directory too, never over a full one
            _sync_directory(os.path.dirname(path))
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def damaged(path: str) -> ConfigError:
    """A file that cannot be done without: what it lists is nowhere else."""
    return ConfigError(f"{path}: is damaged; put it back from a copy, or copy it from another node")


def give_up_ballast(directory: Directory) -> None:
    """The room that `new_directory` made sure of is wanted now."""
    os.unlink(directory.file(_BALLAST))


def need_free(path: str) -> None:
    """Raises StartError when there is something at `path` already: nothing is ever overwritten."""
    try:
        if not os.listdir(path):
            return
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(f"{path}: cannot be used ({_why(error)}); name another directory with --dir") from None
    what = "has a cluster's files already" if os.path.exists(os.path.join(path, ROOTS)) else "is not empty"
    raise StartError(f"{path}: {what}, and nothing is overwritten; name another directory with --dir, or move it away")


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cure = "make room or correct the permissions, or name another directory with --dir"
        raise StartError(f"{path}: cannot be made ({_why(error)}); {cure}") from None


def _make_room(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
    finally:
        os.close(descriptor)


def _check_private(path: str, found: os.stat_result) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{path}: belongs to another user (uid {found.st_uid}); cure: chown {os.geteuid()} {path}")
    if mode & 0o077:
        raise ConfigError(f"{path}: others can read this key (mode {mode:04o}); cure: chmod 600 {path}")


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
