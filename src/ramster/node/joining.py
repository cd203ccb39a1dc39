"""Making a cluster and joining one: what `ramster init` and `ramster join` do, up to a whole directory or none.

Covers the joiner's side of the control port. Not: the other side (`admission`), or the words on the command line (`cli`).

The order of a join is its safety: the authority is compared with the token's pin, and the node that signs shows a certificate
of that authority and its name, before the secret is said; room on the disk is made sure of before the token is spent; the
directory appears as the last step. Keys are made here and never travel.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from ramster.config import addresses, places, template
from ramster.errors import ConfigError, RefusedError, StartError
from ramster.node import peers
from ramster.security import authority, credentials, files, names, tokens
from ramster.transport import control

# Signing waits for a disk at most; a host that does not answer by then is not there.
ASK_DEADLINE_MS = 10_000


@dataclass(frozen=True)
class Place:
    """Where a new node's files go and where it will listen: numeric addresses, `offer` as the user wrote it."""

    directory: str
    listen: str
    control: str
    offer: str
    socket: str | None = None

    def config(self) -> str:
        """The path of its `node.toml`."""
        return os.path.join(os.path.abspath(self.directory), files.CONFIG)


def own_address(text: str, *, of: str) -> str:
    """An address to listen on, numeric. Raises ConfigError for one that others cannot be told."""
    host, port = addresses.split(text, of=of)
    if port == 0:
        raise ConfigError(f"{of}: {text!r} has port 0; others must know the port, so write it, like {places.PAGE_PORT}")
    found = addresses.numeric(text, of=of)
    if not addresses.is_one_machine(addresses.split(found, of=of)[0]):
        raise ConfigError(f"{of}: {host} is no address that others can be told; write this machine's address")
    return found


def control_beside(listen: str) -> str:
    """The control port when nobody names one: the next port of the same address."""
    host, port = addresses.split(listen, of="--listen")
    if port == 65535:
        raise ConfigError("--listen: port 65535 has no next one for the control port; name it with --control")
    return addresses.join(host, port + 1)


def make_cluster(place: Place, node: int) -> None:
    """A new cluster with this node as its first, which signs. Raises StartError; then nothing is left behind."""
    with files.new_directory(place.directory) as directory:
        files.give_up_ballast(directory)
        now = authority.utc_now()
        signer = authority.make_authority(now)
        directory.write(files.AUTHORITY_KEY, authority.key_pem(signer.key), private=True)
        directory.write(files.ROOTS, authority.pem(signer.certificate), private=False)
        credentials.issue_own(directory, signer, node, now)
        _write_config(directory, place, "init", node, node)


def join(token_text: str, host: str, port: int, place: Place, node: int | None) -> int:
    """Joins the cluster of the token by any of its nodes; returns this node's id. `node`: the id that is wanted.

    Raises UsageError, StartError or RefusedError with one line; then nothing is left behind.
    """
    token = tokens.read(token_text)
    with files.new_directory(place.directory) as directory:
        root, where = _find_signer(token, host, port)
        key, clients_key = authority.make_key(), authority.make_key()
        message = {
            "type": "join", "token": token.id, "secret": token.secret.hex(), "node": node,
            "request": authority.make_request(key), "clients_request": authority.make_request(clients_key),
            "listen": place.listen, "control": place.control,
        }  # fmt: skip
        answer = _ask(where, message, credentials.trusting(root), names.of_node(token.signer))
        files.give_up_ballast(directory)
        return _write_joined(directory, place, token, answer, root, (key, clients_key))


def _find_signer(token: tokens.Token, host: str, port: int) -> tuple[str, str]:
    """The authority's certificate, which has the token's pin, and where the node that signs is."""
    where = addresses.join(host, port)
    answer = _ask(where, {"type": "authority"}, credentials.trusting_nobody(), None)
    roots = credentials.roots_of(str(answer.get("roots")))
    root = next((found for found in roots if authority.pin(found) == token.pin), None)
    if root is None:
        raise RefusedError(
            f"join: {where} has another authority than the token's: the token is of another cluster, or somebody answers "
            "in that node's place; the token was not told, so it is still good"
        )
    if answer.get("signer") == token.signer and isinstance(answer.get("control"), str):
        try:
            # It may have this machine's view of its own address; whoever answers there must show the signer's certificate.
            return authority.pem(root), peers.read_address(answer["control"])
        except RefusedError:
            pass
    return authority.pem(root), where


def _write_joined(
    directory: files.Directory,
    place: Place,
    token: tokens.Token,
    answer: dict[str, Any],
    root_pem: str,
    keys: tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePrivateKey],
) -> int:
    root = credentials.roots_of(root_pem)[0]
    node = answer.get("node")
    if type(node) is not int or not 1 <= node <= names.NODE_MAX:
        raise RefusedError("join: the node that signs answered without an id; its version may be another one")
    own = credentials.checked(answer.get("certificate"), root, keys[0], node=node)
    clients = credentials.checked(answer.get("clients"), root, keys[1], node=None)
    if own is None or clients is None:
        raise RefusedError("join: the node that signs answered with a certificate that is not for this node's key")
    directory.write(files.ROOTS, root_pem, private=False)
    credentials.write_pair(directory, files.NODE, own, keys[0])
    credentials.write_pair(directory, files.CLIENTS, clients, keys[1])
    peers.save(directory, [peers.read_peer(entry) for entry in answer.get("peers", [])][: peers.PEERS_MAX])
    _write_config(directory, place, "join", node, token.signer)
    credentials.load(directory)  # what a node could not start with is no success
    return node


def _write_config(directory: files.Directory, place: Place, verb: str, node: int, signer: int) -> None:
    text = template.text(
        verb, place.config(), node=node, listen=place.listen, control=place.control, offer=place.offer,
        authority=signer, socket=place.socket,
    )  # fmt: skip
    directory.write(files.CONFIG, text, private=False)


def _ask(where: str, message: dict[str, Any], context: ssl.SSLContext, name: str | None) -> dict[str, Any]:
    host, port = addresses.split(where, of="HOST")
    try:
        return asyncio.run(control.ask(host, port, message, context=context, name=name, deadline_ms=ASK_DEADLINE_MS))
    except RefusedError as error:
        raise RefusedError(f"join: {where} says no: {error}") from None
    except ssl.SSLCertVerificationError as error:
        raise RefusedError(
            f"join: {where} has no certificate of {name} ({control.why(error)}); somebody may answer in its place, "
            "or a clock is wrong; the token was not told, so it is still good"
        ) from None
    except ssl.SSLError as error:
        cure = "write the host and port of one"
        raise StartError(f"join: {where} does not speak as a control port ({control.why(error)}); {cure}") from None
    except OSError as error:
        cure = "start it there, or check the host and the control port"
        raise StartError(f"join: no node at {where} ({control.why(error)}); {cure}") from None
