"""A running node's credentials: notices new files, gives client processes theirs. Not: where they come from (`rotation`)."""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ramster.errors import ConfigError
from ramster.security import authority, credentials, files

log = logging.getLogger("ramster.certificates")

_WATCHED = (files.ROOTS, files.NODE, files.CLIENTS)


@dataclass
class Issued:
    """What a client process was given: until when it need not be renewed, and by which generation of our own certificates."""

    family: str
    renew_at: datetime
    generation: int


class Trust:
    """One node's credentials as its files have them now."""

    def __init__(self, directory: files.Directory, node: int, config_path: str) -> None:
        """Raises ConfigError when the files cannot be used, or are not those of `node`."""
        self.directory, self._node, self._config_path = directory, node, config_path
        self._stamps = self._stamp()
        self.generation = 0
        self._use(self._load())

    def refresh(self, *, force: bool = False) -> bool:
        """Reads the files again if they changed (or `force`); whether there is news. Files that cannot be used change nothing."""
        stamps = self._stamp()
        if stamps == self._stamps and not force:
            return False
        self._stamps = stamps
        try:
            self._use(self._load())
        except (ConfigError, ssl.SSLError, OSError) as error:
            log.error("certificates are not reloaded, the old ones stay in force: %s", error)
            return False
        self.generation += 1
        log.info("certificates reloaded: node %d, good until %s", self._node,
                 f"{self.credentials.own.certificate.not_valid_after_utc:%Y-%m-%d}")  # fmt: skip
        return True

    def plain(self) -> dict[str, str]:
        """This node's credentials as they are now, as the native part takes them."""
        return self.credentials.plain()

    def issue(self, family: str, now: datetime) -> tuple[dict[str, Any], Issued]:
        """New credentials for a client process of this machine."""
        plain, leaf = self.credentials.for_client(family, now)
        return plain, Issued(family, authority.half_life(leaf), self.generation)

    def is_due(self, issued: Issued, now: datetime) -> bool:
        """Whether a client process needs new ones: it is half-way through, or ours have changed."""
        return issued.generation != self.generation or now >= issued.renew_at

    def status(self) -> dict[str, Any]:
        """For `ramster status`."""
        return credentials.summary(self.credentials)

    def _load(self) -> credentials.Credentials:
        found = credentials.load(self.directory)
        if found.node != self._node:
            raise ConfigError(
                f"{self._config_path}: node.id is {self._node}, but {found.certificate_file} is node {found.node}'s; "
                "correct one of them"
            )
        return found

    def _use(self, found: credentials.Credentials) -> None:
        # Both contexts are made before anything is replaced: a failure leaves everything as it was.
        listening, asking = found.listening(), found.asking()
        self.credentials, self.listening, self.asking = found, listening, asking

    def _stamp(self) -> tuple[Any, ...]:
        stamps: list[Any] = []
        for name in _WATCHED:
            try:
                found = os.stat(self.directory.file(name))
            except OSError:
                stamps.append(None)
            else:
                stamps.append((found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode))
        return tuple(stamps)
