"""The entry point. `run` goes its own short way, since a program waits for it; every other verb is Typer's."""

from __future__ import annotations

import os
import sys

from ramster.errors import RamsterError


def main() -> int:
    """What the `ramster` command does; returns the exit code."""
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["run"]:
            from ramster.cli import run

            return run.main(arguments[1:])
        from ramster.cli import app

        return app.main(arguments)
    except RamsterError as error:
        print(f"ramster: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output is gone; the interpreter must not complain about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
