"""The `node.toml` that `ramster init` and `ramster join` write: every key with what it means. Pure; reading it is `file`."""

from __future__ import annotations

import json

_TEXT = """\
# A node of a ramster cluster. `ramster {verb}` wrote this file once; it is yours now, and ramster never rewrites it.
# Start the node:  ramster node --config {config}

[node]
# This node's number in the cluster. Its certificate names it too, so it cannot be changed here.
id = {id}

# Where other machines' programs keep their pages on this one: an address of this machine that they can reach.
# Every link is TLS 1.3 with a certificate of this cluster on both sides.
listen = {listen}

# Where nodes join, introduce themselves and renew their certificates. A stranger may only try to join here.
control = {control}

# How much RAM this node lends: a size like "8G", or a percentage of this machine's RAM.
offer = {offer}

# Where Prometheus may ask for this node's metrics, on this machine alone.
# metrics = "127.0.0.1:9146"

# The admin socket, for `ramster status` and the programs of this machine. Only root and this node's user may speak there.
{socket}
[cluster]
# The directory with this node's certificates and keys, and with peers.json, the list of nodes that introduced themselves.
# A relative path starts where this file is.
dir = "."

# The node that has the authority's key (ca.key): it lets nodes join and renews certificates.
authority = {authority}

# How nodes learn who is alive: "static", up to 32 nodes that ask each other, or "etcd". The same on every node.
# membership = "static"

# A node that says nothing for this many milliseconds is taken for dead. The same on every node.
# death_ms = 5000

# With membership = "etcd": where it is, this cluster's name there, and what to reach it with.
# etcd = ["https://192.0.2.20:2379"]
# name = "ramster"
# etcd_ca = "etcd-ca.pem"
# etcd_cert = "etcd.pem"
# etcd_key = "etcd.key"
# Where etcd asks for a user:
# etcd_user = "ramster"
# etcd_password_file = "etcd-password"

# Nodes that join are learnt by themselves. One that should be known besides:
# [[peers]]
# id = 9
# address = "192.0.2.9:7946"
"""


def text(
    verb: str, config: str, *, node: int, listen: str, control: str, offer: str, authority: int, socket: str | None
) -> str:
    """The file's text. `socket` None: the usual place, left as a comment."""
    line = f"socket = {_quoted(socket)}\n" if socket else '# socket = "/run/ramster/node.sock"\n'
    return _TEXT.format(
        verb=verb, config=config, id=node, listen=_quoted(listen), control=_quoted(control), offer=_quoted(offer),
        socket=line, authority=authority,
    )  # fmt: skip


def _quoted(value: str) -> str:
    # A JSON string is a TOML basic string, but for DEL, which no path or address of ours has.
    return json.dumps(value, ensure_ascii=False)
