"""`ramster run`: its flags, by hand and without Typer, then the program. Every flag is read before anything happens."""

from __future__ import annotations

import sys

from ramster.doors import launch
from ramster.doors.options import Wishes, build
from ramster.errors import UsageError

USAGE = """\
Usage: ramster run [FLAGS] -- PROGRAM [ARGS]...

Runs an unmodified, dynamically linked program with its large memory managed: cold pages are compressed, and go to peers.

  --local SIZE       RAM of this machine for managed memory, resident and compressed: 512M, 8G, 50%, or auto (default)
  --resident SIZE    the part of it for uncompressed pages (default: the pager divides)
  --peers A,B,...    nodes that take pages, host:port
  --node SOCKET      the local node, which supplies the peers (default: the one at its usual place, if it runs)
  --spill DIR        a directory on disk for what fits nowhere else
  --durability WHAT  copies=2 (or 3: on different nodes), disk (a copy in --spill too), none (one copy), or auto (default:
                     two copies where there are two peers, otherwise disk if --spill is given); or ec=2+1 (or another
                     K+M up to 6): K data and M parity shards of each page on as many nodes
  --config FILE      a TOML file with [run] and [[peers]]; flags win over it
  --malloc NAME      auto (default: small allocations are managed too) or system
  --stats FILE       write one JSON object of statistics when the program ends
  --help             this text

The program's exit code, signals and standard streams are its own. Exit codes of ramster itself: 1 failed, 2 bad usage.
"""

FLAGS = ("local", "resident", "peers", "node", "spill", "durability", "config", "malloc", "stats")


def main(arguments: list[str]) -> int:
    """Replaces this process by the program; with --stats returns its exit code, or dies of its signal. Raises RamsterError."""
    flags, command = parse(arguments)
    if command is None:
        print(USAGE, end="")
        return 0
    stats = flags.pop("stats", None)
    options = build(Wishes(**flags), program=command[0])
    environ = launch.original_environment()
    path = launch.resolve(command, environ)
    library = launch.preload_library()
    launch.need_privilege()
    if stats is None:
        launch.execute(path, command, launch.environment(options, library=library))
    from ramster.doors import supervise

    sys.stdout.flush()
    return supervise.end_like(supervise.run(path, command, options, library=library, stats_path=stats))


def parse(arguments: list[str]) -> tuple[dict[str, str], list[str] | None]:
    """The flags by name, and the command; no command means that help was asked for. Raises UsageError."""
    flags: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        if word in ("--help", "-h"):
            return {}, None
        if not word.startswith("-"):
            rest.insert(0, word)
            break
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--") or name not in FLAGS:
            raise UsageError(f"run: unknown flag {word.partition('=')[0]!r}{_nearest(name)}; see: ramster run --help")
        if not equals:
            if not rest or rest[0] == "--":
                raise UsageError(f"run: --{name} needs a value; see: ramster run --help")
            value = rest.pop(0)
        if not value:
            raise UsageError(f"run: --{name} needs a value; see: ramster run --help")
        flags[name] = value
    if not rest:
        raise UsageError("run: no program given; write: ramster run -- PROGRAM ARGS")
    return flags, rest


def _nearest(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, FLAGS, n=1)
    return f", did you mean --{near[0]}?" if near else ""
