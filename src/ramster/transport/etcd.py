"""etcd's v3 interface over its JSON gateway: leases, entries under a lease, listing and watching a prefix. TLS and passwords.

Not: what entries mean (`cluster.registry`), when to renew or to try again (`node.registration`).
docs/decisions/etcd-by-its-gateway.md says why no client library does this.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from ramster.config.cluster import ClusterTable
from ramster.errors import ConfigError, RefusedError

# Some thousand registrations in base64 fit several times; whoever sends more is no etcd of ours.
ANSWER_BYTES_MAX = 16 << 20
# gRPC's numbers for what etcd says when a token has run out, or the users were changed since.
UNAUTHENTICATED = 16
OLD_AUTH = "revision of auth store is old"


class Compacted(Exception):
    """The revision that was asked for is no longer kept: list everything again."""


@dataclass(frozen=True)
class Entry:
    """One key with its value; `changed` is the revision that wrote it."""

    key: str
    value: str
    changed: int


@dataclass(frozen=True)
class Batch:
    """What happened: (key, value), or (key, None) for an entry that ended. `revision` is the last one's, 0 without any."""

    revision: int
    events: list[tuple[str, str | None]]


class Etcd:
    """One session with a cluster of etcd. Methods raise OSError when it does not answer in time, RefusedError when it refuses."""

    def __init__(self, table: ClusterTable, *, deadline_ms: int) -> None:
        """Raises ConfigError when a certificate, key or password cannot be read."""
        self._endpoints = table.etcd
        self._at = 0
        self._deadline = aiohttp.ClientTimeout(total=deadline_ms / 1000)
        self._deadline_ms = deadline_ms
        self._ssl = _context(table)
        self._user = table.etcd_user
        self._password = _password(table)
        self._token: str | None = None
        self._session: aiohttp.ClientSession | None = None
        self.bytes_in = 0
        self.requests = 0

    async def close(self) -> None:
        """Ends every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def grant(self, ttl_s: int) -> str:
        """A new lease; its name."""
        answer = await self._ask("/v3/lease/grant", {"TTL": str(ttl_s)})
        with _expected():
            return str(answer["ID"])

    async def keep(self, lease: str) -> bool:
        """Renews a lease. False: it has ended."""
        answer = await self._ask("/v3/lease/keepalive", {"ID": lease})
        with _expected():
            return int(answer["result"].get("TTL", 0)) > 0

    async def revoke(self, lease: str) -> None:
        """Ends a lease with all its entries."""
        await self._ask("/v3/lease/revoke", {"ID": lease})

    async def put(self, key: str, value: str, lease: str, *, if_changed: int | None = None) -> bool:
        """Writes an entry under a lease; with `if_changed` only if that revision wrote it last (0: if it is not there)."""
        put = {"key": _encode(key), "value": _encode(value), "lease": lease}
        if if_changed is None:
            await self._ask("/v3/kv/put", put)
            return True
        compare = {"key": _encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(if_changed)}
        answer = await self._ask("/v3/kv/txn", {"compare": [compare], "success": [{"request_put": put}]})
        return bool(answer.get("succeeded", False))

    async def delete(self, key: str) -> None:
        """Ends an entry."""
        await self._ask("/v3/kv/deleterange", {"key": _encode(key)})

    async def get(self, key: str) -> Entry | None:
        """One entry."""
        answer = await self._ask("/v3/kv/range", {"key": _encode(key)})
        with _expected():
            return next((_entry(found) for found in answer.get("kvs", [])), None)

    async def list(self, prefix: str) -> tuple[list[Entry], int]:
        """All entries under a prefix, and the revision at which they were so."""
        answer = await self._ask("/v3/kv/range", {"key": _encode(prefix), "range_end": _encode(_after(prefix))})
        with _expected():
            return [_entry(found) for found in answer.get("kvs", [])], int(answer["header"]["revision"])

    async def watch(self, prefix: str, revision: int, *, within_ms: int) -> AsyncIterator[Batch]:
        """What happens under a prefix from `revision` on, for `within_ms`. Raises Compacted besides."""
        create = {"key": _encode(prefix), "range_end": _encode(_after(prefix)), "start_revision": str(revision)}
        timeout = aiohttp.ClientTimeout(total=within_ms / 1000, sock_connect=self._deadline_ms / 1000)
        try:
            async with await self._post("/v3/watch", {"create_request": create}, timeout) as answer:
                await _checked(answer)
                async for message in self._messages(answer):
                    with _expected():
                        batch = _batch(message)
                    yield batch
        except aiohttp.ClientError as error:
            self._at += 1
            raise ConnectionError(f"etcd: {error}") from None
        except _Unauthenticated as error:
            self._token = None
            raise ConnectionError(f"etcd: {error}") from None
        except TimeoutError:
            return

    async def _messages(self, answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
        """One JSON object a line, however they are cut into chunks."""
        rest = b""
        async for chunk in answer.content.iter_any():
            self.bytes_in += len(chunk)
            rest += chunk
            if len(rest) > ANSWER_BYTES_MAX:
                raise RefusedError("etcd: an event that is too long")
            *lines, rest = rest.split(b"\n")
            for line in lines:
                if line.strip():
                    yield _object(line)

    async def _ask(self, path: str, question: dict[str, Any]) -> dict[str, Any]:
        """One question with its answer, authenticated again once if need be."""
        for last in (False, True):
            if self._user is not None and self._token is None:
                self._token = await self._authenticate()
            try:
                return await self._once(path, question)
            except _Unauthenticated as error:
                self._token = None
                if last or self._user is None:
                    raise RefusedError(f"etcd: {error}") from None
        raise AssertionError("not reached")

    async def _authenticate(self) -> str:
        answer = await self._once("/v3/auth/authenticate", {"name": self._user, "password": self._password})
        with _expected():
            return str(answer["token"])

    async def _once(self, path: str, question: dict[str, Any]) -> dict[str, Any]:
        try:
            async with await self._post(path, question, self._deadline) as answer:
                body = await answer.content.read(ANSWER_BYTES_MAX)
                self.bytes_in += len(body)
                await _checked(answer, body)
                # A stream of one answer (keepalive) ends with its line.
                return _object(body)
        except (aiohttp.ClientError, TimeoutError) as error:
            # Another endpoint may know more; and connections that were open may be dead.
            self._at += 1
            why = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            raise ConnectionError(f"etcd: {why}") from None

    async def _post(
        self, path: str, question: dict[str, Any], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            # No limit of its own: one watch and one question at a time is what comes. No proxy of the environment's.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._ssl), trust_env=False)
        headers = {"Authorization": self._token} if self._token and "/auth/" not in path else {}
        url = self._endpoints[self._at % len(self._endpoints)].rstrip("/") + path
        self.requests += 1
        return await self._session.post(url, json=question, headers=headers, timeout=timeout, allow_redirects=False)


@contextlib.contextmanager
def _expected() -> Iterator[None]:
    """What lacks in an answer, or is of another kind, is a refusal and no defect of ours."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RefusedError(f"etcd: an answer that makes no sense ({error!r})") from None


class _Unauthenticated(Exception):
    pass


async def _checked(answer: aiohttp.ClientResponse, body: bytes | None = None) -> None:
    if answer.status == 200:
        return
    if body is None:
        body = await answer.content.read(65536)
    try:
        found = json.loads(body)
        message, code = str(found.get("error") or found.get("message")), int(found.get("code", 0))
    except (ValueError, AttributeError, TypeError, RecursionError):
        # The gateway itself says in plain text what it does not like.
        message, code = f"{body[:200].decode(errors='replace').strip()} (HTTP status {answer.status})", 0
    if code == UNAUTHENTICATED or OLD_AUTH in message:
        raise _Unauthenticated(message)
    if answer.status >= 500:
        # No leader, or one of them is just starting: as good as away.
        raise aiohttp.ClientError(message)
    raise RefusedError(f"etcd: {message}")


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise RefusedError("etcd: an answer that is not JSON") from None
    if not isinstance(found, dict):
        raise RefusedError("etcd: an answer that is not an object")
    return found


def _batch(message: dict[str, Any]) -> Batch:
    result = message.get("result")
    if not isinstance(result, dict):
        raise ConnectionError(f"etcd: {message.get('error', 'the watch ended')}")
    if int(result.get("compact_revision", 0)):
        raise Compacted
    if result.get("canceled"):
        raise ConnectionError(f"etcd: the watch was ended: {result.get('cancel_reason', 'no reason given')}")
    events: list[tuple[str, str | None]] = []
    revision = 0
    for event in result.get("events", []):
        entry = _entry(event["kv"])
        revision = max(revision, entry.changed)
        events.append((entry.key, None if event.get("type") == "DELETE" else entry.value))
    # Not the header's revision: the first answer has the store's, which is ahead of events that are yet to come.
    return Batch(revision, events)


def _entry(found: dict[str, Any]) -> Entry:
    return Entry(_decode(found["key"]), _decode(found.get("value", "")), int(found.get("mod_revision", 0)))


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decode(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")


def _after(prefix: str) -> str:
    """The first key that no longer has the prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _context(table: ClusterTable) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=table.etcd_ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cluster.etcd_ca: {table.etcd_ca} is no certificate ({error}); name a PEM file") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if table.etcd_cert is not None:
        try:
            context.load_cert_chain(table.etcd_cert, table.etcd_key)
        except (OSError, ssl.SSLError) as error:
            files = f"{table.etcd_cert} and {table.etcd_key}"
            raise ConfigError(
                f"cluster.etcd_cert: {files} cannot be used ({error}); name PEM files that match"
            ) from None
    return context


def _password(table: ClusterTable) -> str | None:
    if table.etcd_password_file is None:
        return None
    try:
        with open(table.etcd_password_file, encoding="utf-8") as stream:
            return stream.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cluster.etcd_password_file: {table.etcd_password_file} cannot be read ({error})") from None


async def pause(ms: int) -> None:
    """Sleeps, so that what is tried again is not tried at once."""
    await asyncio.sleep(ms / 1000)
