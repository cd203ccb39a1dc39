"""The verbs as Typer sees them. Each imports what it needs when it is called; errors become one line in `main`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from ramster.errors import UsageError

JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DIR = Annotated[
    str | None,
    typer.Option("--dir", help="The cluster's directory. Default: /etc/ramster for root, else ~/.config/ramster."),
]
LISTEN = Annotated[
    str, typer.Option(help="Where this node keeps pages: HOST:PORT of this machine as the others reach it.")
]
OFFER = Annotated[str, typer.Option(help="RAM to lend: a size, or a percentage of the RAM.")]
CONTROL = Annotated[str | None, typer.Option(help="Where nodes join: HOST:PORT. Default: the port after --listen's.")]
SOCKET = Annotated[str | None, typer.Option(help="The node's admin socket, if not the usual one.")]

app = typer.Typer(
    name="ramster",
    help="Pools the RAM of several machines: a program's cold memory is compressed, kept here, or pushed to a machine with room.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
    add_help_option=False,
)
def run(context: typer.Context) -> None:
    """Run an unmodified program with managed memory (ramster run --help)."""
    from ramster.cli import run as verb

    raise typer.Exit(verb.main(context.args))


@app.command()
def init(
    listen: LISTEN,
    directory: DIR = None,
    node_id: Annotated[int, typer.Option("--id", help="This node's number.")] = 1,
    offer: OFFER = "25%",
    control: CONTROL = None,
    socket: SOCKET = None,
    as_json: JSON = False,
) -> None:
    """Make a cluster: its certificate authority, and this machine as its first node."""
    from ramster.cli import cluster as verb

    verb.init(verb.Wishes(directory, listen, control, offer, socket), node_id, as_json=as_json)


@app.command()
def token(
    directory: DIR = None,
    expires: Annotated[str, typer.Option(help="How long it is good: 30m, 1h, 7d.")] = "1h",
    as_json: JSON = False,
) -> None:
    """Print a join token, good for one machine. Whoever has it can join: hand it over as one does a password."""
    from ramster.cli import cluster as verb

    verb.token(directory, expires, as_json=as_json)


@app.command()
def join(
    token: Annotated[str, typer.Argument(help="What `ramster token` printed, or - to read it from standard input.")],
    host: Annotated[str, typer.Argument(help="HOST[:PORT] of a control port of the cluster.")],
    listen: LISTEN,
    directory: DIR = None,
    node_id: Annotated[int | None, typer.Option("--id", help="The number that this node wants.")] = None,
    offer: OFFER = "25%",
    control: CONTROL = None,
    socket: SOCKET = None,
    as_json: JSON = False,
) -> None:
    """Join a cluster with a token: this machine gets its certificate and its number."""
    from ramster.cli import cluster as verb

    verb.join(token, host, verb.Wishes(directory, listen, control, offer, socket), node_id, as_json=as_json)


@app.command()
def rotate(directory: DIR = None, as_json: JSON = False) -> None:
    """Give this node new keys and certificates; a running node takes them over within a second."""
    from ramster.cli import cluster as verb

    verb.rotate(directory, as_json=as_json)


@app.command()
def node(
    config: Annotated[str, typer.Option(help="The TOML file with [node], as `ramster init` writes it.")],
) -> None:
    """Serve this machine's spare RAM to other nodes, in the foreground; logs to standard error."""
    from ramster.cli import node as verb

    verb.main(config)


@app.command()
def status(
    node: Annotated[str | None, typer.Option(help="The node's admin socket.")] = None,
    config: Annotated[str | None, typer.Option(help="The node's file, which names its socket.")] = None,
    as_json: JSON = False,
) -> None:
    """Show the nodes and the clients of the local node."""
    from ramster.cli import status as verb

    verb.main(node, config, as_json=as_json)


@app.command()
def nodes(
    node: Annotated[str | None, typer.Option(help="The node's admin socket.")] = None,
    config: Annotated[str | None, typer.Option(help="The node's file, which names its socket.")] = None,
    as_json: JSON = False,
) -> None:
    """Show all nodes of the cluster, and who lends to whom: asks each of them."""
    from ramster.cli import nodes as verb

    verb.main(node, config, as_json=as_json)


@app.command()
def leave(
    deadline: Annotated[str, typer.Option(help="How long owners may take to fetch their pages: 60s, 10m.")] = "60s",
    force: Annotated[bool, typer.Option("--force", help="Leave at the deadline even if pages are lost by it.")] = False,
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove this node's keys and certificates as well.")] = False,
    node: Annotated[str | None, typer.Option(help="The node's admin socket.")] = None,
    config: Annotated[str | None, typer.Option(help="The node's file, which names its socket.")] = None,
    as_json: JSON = False,
) -> None:
    """Take the local node out of the cluster for good: its pages go elsewhere, the others forget it, it ends."""
    from ramster.cli import leave as verb

    raise typer.Exit(verb.leave(deadline, node, config, force=force, wipe=wipe, as_json=as_json))


@app.command()
def forget(
    node_id: Annotated[int, typer.Argument(metavar="ID", help="The node that is gone for good.")],
    force: Annotated[bool, typer.Option("--force", help="Even if it is up: its keys were stolen.")] = False,
    node: Annotated[str | None, typer.Option(help="The node's admin socket.")] = None,
    config: Annotated[str | None, typer.Option(help="The node's file, which names its socket.")] = None,
    as_json: JSON = False,
) -> None:
    """On the node that signs: forget a node that died for good, and revoke its certificate."""
    from ramster.cli import leave as verb

    verb.forget(node_id, node, config, force=force, as_json=as_json)


@app.command("set")
def set_(
    key: Annotated[
        str | None, typer.Argument(help="remotify, targets, offer, log.control, ...; see set alone.")
    ] = None,
    value: Annotated[str | None, typer.Argument(help="on, zstd, copies=2, 8G, debug, ...")] = None,
    node: Annotated[str | None, typer.Option(help="The node's admin socket.")] = None,
    config: Annotated[str | None, typer.Option(help="The node's file, which names its socket.")] = None,
    as_json: JSON = False,
) -> None:
    """Change what the local node and its clients do, until the node ends; without KEY, show what was changed."""
    from ramster.cli import knobs as verb

    verb.main(key, value, node, config, as_json=as_json)


@app.command()
def doctor(as_json: JSON = False) -> None:
    """Say what this machine allows, what is missing, and the command that grants it."""
    from ramster.cli import doctor as verb

    raise typer.Exit(verb.main(as_json=as_json))


@app.command()
def demo(
    size: Annotated[str, typer.Option(help="How much text to sort.")] = "256M",
    as_json: JSON = False,
) -> None:
    """Sort a few hundred MiB of this machine's text in a quarter of the memory that it needs, with a second node."""
    from ramster.demo import story

    raise typer.Exit(story.main(size, as_json=as_json))


@app.command()
def version(as_json: JSON = False) -> None:
    """Print the version."""
    from ramster import __version__

    print_facts({"version": __version__}, __version__, as_json=as_json)


def print_facts(facts: dict[str, Any], text: str, *, as_json: bool) -> None:
    """One JSON object, or the text for people."""
    print(json.dumps(facts, indent=2) if as_json else text)


def main(arguments: list[str]) -> int:
    """Runs a verb; returns the exit code. Raises UsageError where Typer would print a box."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=arguments or ["--help"], prog_name="ramster", standalone_mode=False)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "ramster"
        message = " ".join(error.format_message().split()).rstrip(".")
        raise UsageError(f"{message}; see: {where} --help") from None
    except typer.Abort:
        return 130
    if not arguments:
        return 2
    return code if isinstance(code, int) else 0
