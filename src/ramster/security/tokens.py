"""One-time join tokens: the text that is handed over, and the list of those that are still good. Pure.

Not: the file that keeps the list (`files`), or what a token gives (`node.admission`).

A token names the node that signs and pins the authority, so whoever has it can check both before saying its secret. The list has
only a salted hash of the secret; that suffices without stretching, since a secret is 128 random bits.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Any

from ramster.errors import RefusedError, UsageError

PREFIX = "ramster1."
# signer's id, pin, token's id, secret, check
_LAYOUT = struct.Struct(">Q32s8s16s4s")
RANDOM_BYTES = 8 + 16 + 16
# Far more than machines joining at once; a script that makes tokens in a loop must not fill the disk.
TOKENS_MAX = 1024
GOOD, EXPIRED, UNKNOWN = "good", "expired", "unknown"
# What a joiner is told. An expired token is forgotten when that is noticed, so it may be told either way.
WHY = {
    EXPIRED: "the token has expired; make another with: ramster token",
    UNKNOWN: "the token is not known: it was used, or has expired; make another with: ramster token",
}


@dataclass(frozen=True)
class Token:
    """What a token's text says."""

    signer: int
    pin: bytes
    id: str
    secret: bytes

    def text(self) -> str:
        """As one word for a command line."""
        body = struct.pack(">Q32s8s16s", self.signer, self.pin, bytes.fromhex(self.id), self.secret)
        return PREFIX + base64.urlsafe_b64encode(body + _check(body)).decode().rstrip("=")


def make(signer: int, pin: bytes, expires_s: int, random: bytes) -> tuple[Token, dict[str, Any]]:
    """A token and the entry to keep of it. `random`: RANDOM_BYTES of them."""
    token = Token(signer, pin, random[:8].hex(), random[8:24])
    salt = random[24:RANDOM_BYTES]
    entry = {"id": token.id, "salt": salt.hex(), "hash": _hash(salt, token.secret), "expires_s": expires_s}
    return token, entry


def read(text: str) -> Token:
    """What a token's text says. Raises UsageError when it is none, or not a whole one."""
    body = text.strip().removeprefix(PREFIX)
    try:
        raw = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        signer, pin, token_id, secret, check = _LAYOUT.unpack(raw)
    except (ValueError, binascii.Error, struct.error):
        raise _no_token() from None
    if check != _check(raw[:-4]) or not text.strip().startswith(PREFIX):
        raise _no_token()
    return Token(signer, pin, token_id.hex(), secret)


def add(entries: list[dict[str, Any]], entry: dict[str, Any], now_s: float) -> list[dict[str, Any]]:
    """`entries` with one more, and without those that expired. Raises RefusedError over TOKENS_MAX."""
    kept = _unexpired(entries, now_s)
    if len(kept) >= TOKENS_MAX:
        raise RefusedError(f"{TOKENS_MAX} tokens are waiting to be used; wait until some expire")
    return [*kept, entry]


def spend(
    entries: list[dict[str, Any]], token_id: object, secret_hex: object, now_s: float
) -> tuple[list[dict[str, Any]], str]:
    """`entries` without that token and those that expired, and the outcome: GOOD, EXPIRED or UNKNOWN.

    A wrong secret leaves its token: who guesses must not be able to spend somebody else's.
    """
    kept = _unexpired(entries, now_s)
    for entry in entries:
        if entry["id"] == token_id and isinstance(secret_hex, str) and len(secret_hex) == 32:
            try:
                secret = bytes.fromhex(secret_hex)
            except ValueError:
                break
            if hmac.compare_digest(_hash(bytes.fromhex(entry["salt"]), secret), entry["hash"]):
                outcome = GOOD if entry in kept else EXPIRED
                return [other for other in kept if other is not entry], outcome
    return kept, UNKNOWN


def _unexpired(entries: list[dict[str, Any]], now_s: float) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["expires_s"] > now_s]


def _hash(salt: bytes, secret: bytes) -> str:
    return hashlib.sha256(b"ramster join token" + salt + secret).hexdigest()


def _check(body: bytes) -> bytes:
    return hashlib.sha256(b"ramster token check" + body).digest()[:4]


def _no_token() -> UsageError:
    return UsageError(
        "TOKEN is not a whole join token; copy the line that `ramster token` printed, from ramster1. to its end"
    )
