"""`ramster init`, `token`, `join` and `rotate`: flags in, what to do next out. The work is `node.joining` and `node.rotation`."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from dataclasses import dataclass

from ramster.config import addresses, durations, file, machine, places, sizes
from ramster.errors import ConfigError, UsageError
from ramster.node import joining, rotation
from ramster.security import authority, credentials, files, names, tokens

# A token that lies about for longer is found by somebody; one needs it for the minute of a join.
EXPIRES_MAX_S = 30 * 86400


@dataclass(frozen=True)
class Wishes:
    """The flags that `init` and `join` share, as the user wrote them."""

    directory: str | None
    listen: str
    control: str | None
    offer: str
    socket: str | None


def init(wishes: Wishes, node: int, *, as_json: bool) -> None:
    """Makes a cluster. Raises ConfigError or StartError."""
    if not 1 <= node <= names.NODE_MAX:
        raise UsageError(f"--id: {node} is no node's number; write a whole number from 1")
    place = _place(wishes)
    joining.make_cluster(place, node)
    if as_json:
        _print(
            {"node": node, "dir": os.path.dirname(place.config()), "config": place.config(), "control": place.control}
        )
        return
    flag = "" if wishes.directory is None else f" --dir {_word(os.path.dirname(place.config()))}"
    print(f"cluster made: this is node {node}, its files are in {os.path.dirname(place.config())}")
    print("next, start this node, and make a token for each machine that is to join:")
    print(f"  ramster node --config {_word(place.config())}")
    print(f"  ramster token{flag}")


def token(directory: str | None, expires: str, *, as_json: bool) -> None:
    """Prints a new token. Raises ConfigError, StartError or RefusedError."""
    seconds = durations.seconds(expires, of="--expires", most_s=EXPIRES_MAX_S, most="a token is good for 30d at most")
    found = files.Directory(directory or places.default_directory())
    if found.has(files.ROOTS) and not found.has(files.AUTHORITY_KEY):
        raise ConfigError(
            f"{found.file(files.AUTHORITY_KEY)}: is not on this machine; run ramster token on the node that has it"
        )
    signer = credentials.load_authority(found)
    own = credentials.load(found)
    now_s = int(time.time())
    made, entry = tokens.make(
        own.node, authority.pin(signer.certificate), now_s + seconds, secrets.token_bytes(tokens.RANDOM_BYTES)
    )
    with found.locked():
        entries = found.read_json(files.TOKENS, default={}).get("tokens", [])
        found.write_json(files.TOKENS, {"tokens": tokens.add(entries, entry, now_s)})
    if as_json:
        _print({"token": made.text(), "expires_s": entry["expires_s"]})
    else:
        print(made.text())


def join(token_text: str, host: str, wishes: Wishes, node: int | None, *, as_json: bool) -> None:
    """Joins. Raises UsageError, ConfigError, StartError or RefusedError."""
    if token_text == "-":
        token_text = sys.stdin.readline(1024)
    tokens.read(token_text)  # a mistyped token is told before anything else
    if node is not None and not 1 <= node <= names.NODE_MAX:
        raise UsageError(f"--id: {node} is no node's number; write a whole number from 1")
    place = _place(wishes)
    where, port = _host(host)
    got = joining.join(token_text, where, port, place, node)
    if as_json:
        _print(
            {"node": got, "dir": os.path.dirname(place.config()), "config": place.config(), "control": place.control}
        )
        return
    print(f"joined: this is node {got}, its files are in {os.path.dirname(place.config())}")
    print("next, start it:")
    print(f"  ramster node --config {_word(place.config())}")


def rotate(directory: str | None, *, as_json: bool) -> None:
    """New keys and certificates for this node. Raises ConfigError or StartError."""
    found = files.Directory(directory or places.default_directory())
    config = file.read(found.file(files.CONFIG), ram_bytes=machine.memory().ram_bytes)
    if config.cluster.dir is None or config.cluster.authority is None:
        raise ConfigError(f"{config.path}: [cluster] has no certificates; add dir and authority")
    now = asyncio.run(rotation.rotate(files.Directory(config.cluster.dir), config.cluster.authority))
    end = now.own.certificate.not_valid_after_utc
    if as_json:
        _print({"node": now.node, **credentials.summary(now)})
    else:
        print(
            f"node {now.node} has new keys and certificates, good until {end:%Y-%m-%d}; a running node takes them over by itself"
        )


def _place(wishes: Wishes) -> joining.Place:
    listen = joining.own_address(wishes.listen, of="--listen")
    control = joining.own_address(wishes.control or joining.control_beside(listen), of="--control")
    if control == listen:
        raise ConfigError(f"--control: {control} is the page port too; name another port")
    sizes.parse(wishes.offer, of="--offer", ram_bytes=machine.memory().ram_bytes)
    socket = os.path.abspath(wishes.socket) if wishes.socket else None
    return joining.Place(wishes.directory or places.default_directory(), listen, control, wishes.offer, socket)


def _host(text: str) -> tuple[str, int]:
    """HOST, HOST:PORT, an IPv6 address with or without brackets."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" not in text or addresses.is_one_machine(bare):
        return bare, places.CONTROL_PORT
    return addresses.split(text, of="HOST")


def _word(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _print(facts: dict[str, object]) -> None:
    print(json.dumps(facts, indent=2))
