"""Every error that ramster raises, each with the exit code that the command line gives it.

Covers: the classes alone. A message is one line that names the file or flag and the cure; whoever raises writes it.
Outcomes that are no error (a miss, a refused put) are values, never exceptions.
"""

from __future__ import annotations


class RamsterError(Exception):
    """The base of all. `exit_code` is what `ramster` exits with when nobody handles it."""

    exit_code = 1


class UsageError(RamsterError):
    """A flag or argument that cannot be understood."""

    exit_code = 2


class ConfigError(RamsterError):
    """A configuration (file, flag or argument) that cannot be used: unknown key, bad size, contradiction."""

    exit_code = 2


class PrivilegeError(RamsterError):
    """The kernel refuses what the pager needs; the message has the command that grants it."""


class StartError(RamsterError):
    """A pager, an engine or a node could not start: no memory to reserve, a port in use, a missing file."""


class LostError(RamsterError):
    """A stored page cannot be brought back: its holder died or its bytes are damaged. Never a miss, never zeroes."""


class RefusedError(RamsterError):
    """The other side answered and said no, with its reason."""
