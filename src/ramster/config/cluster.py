"""`[cluster]` of the TOML file: this node's certificates, how nodes learn of each other, and how soon a death is noticed.

Checked here, read by `file`. Not: what is in the directory of certificates (`security.files`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from ramster.errors import ConfigError

KINDS = ("static", "etcd")
# Shorter, a busy machine's scheduling is taken for death; longer, nobody would call it noticing.
DEATH_MS_LEAST, DEATH_MS_MOST = 500, 600_000
# etcd's leases last two seconds at least, and one more goes by before it says that one has ended.
ETCD_DEATH_MS_LEAST = 3000
CERTIFICATE_KEYS: dict[str, tuple[type, str]] = {
    "dir": (str, 'the directory with certificates that ramster init or join made, like "/etc/ramster"'),
    "authority": (int, "the id of the node that has the authority's key, like 1"),
}
KEYS: dict[str, tuple[type, str]] = {
    **CERTIFICATE_KEYS,
    "membership": (str, '"static" or "etcd"'),
    "death_ms": (int, f"a whole number from {DEATH_MS_LEAST} to {DEATH_MS_MOST}, like 5000"),
    "name": (str, 'a name of letters, digits, "-" and "_", like "lab"'),
    "etcd": (list, 'a list of addresses, like ["https://10.0.0.1:2379"]'),
    "etcd_ca": (str, "the path of a certificate file"),
    "etcd_cert": (str, "the path of a certificate file"),
    "etcd_key": (str, "the path of a key file"),
    "etcd_user": (str, "a user of etcd's"),
    "etcd_password_file": (str, "the path of a file that holds the password alone"),
}
PATHS = ("dir", "etcd_ca", "etcd_cert", "etcd_key", "etcd_password_file")


@dataclass(frozen=True)
class ClusterTable:
    """`[cluster]`. None: not there. Paths are absolute; relative ones begin where the file is. With `dir` there is `authority`,
    the node that signs certificates, and without it the node has no certificates."""

    dir: str | None = None
    authority: int | None = None
    membership: str = "static"
    death_ms: int = 5000
    name: str = "ramster"
    etcd: tuple[str, ...] = ()
    etcd_ca: str | None = None
    etcd_cert: str | None = None
    etcd_key: str | None = None
    etcd_user: str | None = None
    etcd_password_file: str | None = None


class Check(Protocol):
    """What `file` offers: an error with the file's name and the key's line, and that for keys that are missing."""

    @property
    def path(self) -> str: ...  # noqa: D102

    def error(self, message: str, table: str, key: str | None = None, index: int = 0) -> ConfigError: ...  # noqa: D102

    def need(self, table: str, found: dict[str, Any], known: dict[str, tuple[type, str]]) -> None: ...  # noqa: D102


def read(check: Check, found: dict[str, Any]) -> ClusterTable:
    """The table, of which keys and types are checked already. Raises ConfigError."""

    def refuse(key: str, why: str) -> ConfigError:
        return check.error(f"cluster.{key} {why}", "cluster", key if key in found else None)

    beside = os.path.dirname(os.path.abspath(check.path))
    paths = {key: os.path.normpath(os.path.join(beside, found[key])) for key in PATHS if key in found}
    table = ClusterTable(**{**found, **paths, "etcd": tuple(found.get("etcd", ()))})
    _certificates(check, found)
    if table.membership not in KINDS:
        raise refuse("membership", f"must be {KEYS['membership'][1]}, not {table.membership!r}")
    if not DEATH_MS_LEAST <= table.death_ms <= DEATH_MS_MOST:
        raise refuse("death_ms", f"must be {KEYS['death_ms'][1]}, not {table.death_ms}")
    if not table.name or not table.name.replace("-", "").replace("_", "").isalnum():
        raise refuse("name", f"must be {KEYS['name'][1]}, not {table.name!r}")
    if table.membership == "static":
        for key in found:
            if key.startswith("etcd"):
                raise refuse(key, 'is for membership = "etcd"; remove it, or write membership = "etcd"')
        return table
    _etcd(table, found, refuse)
    return table


def _certificates(check: Check, found: dict[str, Any]) -> None:
    if not any(key in found for key in CERTIFICATE_KEYS):
        return
    check.need("cluster", found, CERTIFICATE_KEYS)
    if not 1 <= found["authority"] < 1 << 63:
        raise check.error(f"cluster.authority must be {KEYS['authority'][1]}", "cluster", "authority")


def _etcd(table: ClusterTable, found: dict[str, Any], refuse: Any) -> None:
    if not table.etcd:
        raise refuse("etcd", f"is missing; add etcd = {KEYS['etcd'][1]}")
    for address in table.etcd:
        _endpoint(address, refuse)
    if table.death_ms < ETCD_DEATH_MS_LEAST:
        raise refuse("death_ms", f"must be {ETCD_DEATH_MS_LEAST} or more with etcd, whose leases are whole seconds")
    for one, other in (("etcd_cert", "etcd_key"), ("etcd_user", "etcd_password_file")):
        for key, lacking in ((one, other), (other, one)):
            if key in found and lacking not in found:
                raise refuse(key, f"needs {lacking} beside it")


def _endpoint(address: Any, refuse: Any) -> None:
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port and not parts.path.strip("/")
    except (ValueError, AttributeError, TypeError):
        good = False
    if not good:
        raise refuse("etcd", f"must be {KEYS['etcd'][1]}, not {address!r}")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise refuse("etcd", f"{address} is not encrypted; write https://, with etcd_ca, etcd_cert and etcd_key")
