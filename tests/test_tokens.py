"""Join tokens: their text, and that each is good once, until its end, for whoever has its secret."""

from __future__ import annotations

import json
import random

import pytest

from ramster.errors import RefusedError, UsageError
from ramster.security import tokens

PIN = bytes(range(32))


def make(expires_s: int = 100) -> tuple[tokens.Token, dict[str, object]]:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    return tokens.make(3, PIN, expires_s, random.Random(seed).randbytes(tokens.RANDOM_BYTES))


def test_a_token_is_one_word_that_says_who_signs_and_the_pin() -> None:
    token, _ = make()
    assert tokens.read(f" {token.text()}\n") == token
    assert (token.signer, token.pin) == (3, PIN)
    assert not set(token.text()) - set("ramster1.ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_mistyped_or_cut_token_is_none() -> None:
    text = make()[0].text()
    for index in range(len(text)):
        other = text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]
        with pytest.raises(UsageError, match="whole join token"):
            tokens.read(other)
        with pytest.raises(UsageError):
            tokens.read(text[:index])


def test_only_a_salted_hash_is_kept() -> None:
    token, entry = make()
    kept = json.dumps(entry)
    assert token.secret.hex() not in kept
    again = tokens.make(3, PIN, 100, bytes.fromhex(token.id) + token.secret + b"other salt here!")[1]
    assert again["hash"] != entry["hash"]


def test_a_token_is_good_once_and_a_wrong_secret_does_not_spend_it() -> None:
    (token, entry), (_, other) = make(), make()
    entries = [entry, other]
    wrong: list[object] = ["00" * 16, token.secret.hex()[:-2], "zz" * 16, None, 3, [], token.secret.hex() + "00"]
    for secret in wrong:
        assert tokens.spend(entries, token.id, secret, 50) == (entries, tokens.UNKNOWN)
    assert tokens.spend(entries, {"x": 1}, token.secret.hex(), 50) == (entries, tokens.UNKNOWN)
    kept, outcome = tokens.spend(entries, token.id, token.secret.hex(), 50)
    assert (kept, outcome) == ([other], tokens.GOOD)
    assert tokens.spend(kept, token.id, token.secret.hex(), 50) == ([other], tokens.UNKNOWN)


def test_an_expired_token_is_told_and_forgotten() -> None:
    token, entry = make(100)
    assert tokens.spend([entry], token.id, token.secret.hex(), 99) == ([], tokens.GOOD)
    assert tokens.spend([entry], token.id, token.secret.hex(), 100) == ([], tokens.EXPIRED)
    assert tokens.add([entry], make(300)[1], 100)[0]["expires_s"] == 300


def test_there_is_a_limit_to_tokens_that_wait() -> None:
    entries = [make(1000)[1]] * tokens.TOKENS_MAX
    with pytest.raises(RefusedError, match="tokens"):
        tokens.add(entries, make()[1], 1)
    assert len(tokens.add(entries, make(9000)[1], 1000)) == 1
