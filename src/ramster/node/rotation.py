"""New certificates for a node that has some: from the authority's key where it is, otherwise from the node that has it.

Covers `ramster rotate` and the renewal that a running node does by itself. Not: noticing new files (`trust`).
"""

from __future__ import annotations

from ramster.config import addresses
from ramster.errors import RamsterError, StartError
from ramster.node import peers
from ramster.security import authority, credentials, files, names
from ramster.transport import control

ASK_DEADLINE_MS = 10_000


async def rotate(directory: files.Directory, signer: int) -> credentials.Credentials:
    """Makes new keys, has them signed, writes them. `signer`: the node that has the authority's key.

    Raises ConfigError, StartError or RefusedError; then the old certificates are as they were.
    """
    mine = credentials.load(directory)
    if directory.has(files.AUTHORITY_KEY):
        credentials.issue_own(directory, credentials.load_authority(directory), mine.node, authority.utc_now())
        return credentials.load(directory)
    known = peers.Peers(directory, mine.node).get(signer)
    if known is None:
        raise StartError(
            f"{directory.file(files.PEERS)}: node {signer}, which signs, is not in it; start this node, then try again"
        )
    key, clients_key = authority.make_key(), authority.make_key()
    message = {
        "type": "renew",
        "request": authority.make_request(key),
        "clients_request": authority.make_request(clients_key),
    }
    host, port = addresses.split(known.control, of="control")
    try:
        answer = await control.ask(
            host, port, message, context=mine.asking(), name=names.of_node(signer), deadline_ms=ASK_DEADLINE_MS
        )
    except (OSError, RamsterError) as error:
        what = f"node {signer} at {known.control} did not sign ({control.why(error)})"
        raise StartError(f"rotate: {what}; is it running?") from None
    root = next((root for root in credentials.roots_of(mine.roots)), None)
    own = clients = None
    if root is not None:
        own = credentials.checked(answer.get("certificate"), root, key, node=mine.node)
        clients = credentials.checked(answer.get("clients"), root, clients_key, node=None)
    if own is None or clients is None:
        raise StartError(
            f"rotate: node {signer} answered with certificates that are not for this node; the old ones stay"
        )
    credentials.write_pair(directory, files.NODE, own, key)
    credentials.write_pair(directory, files.CLIENTS, clients, clients_key)
    return credentials.load(directory)
