"""ramster pools the RAM of several machines: cold memory of a program is compressed, kept here, or pushed to a machine
that has room.

Everything public is named here and loaded at its first use, so that `ramster run` starts a program without waiting for NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ramster.doors.arrays import array, empty, from_file, numpy, zeros
    from ramster.doors.pools import Cache, Pool
    from ramster.doors.runtime import configure, stats
    from ramster.errors import ConfigError, LostError, PrivilegeError, RamsterError, StartError

__version__ = "0.1.0"
__all__ = [
    "Cache",
    "ConfigError",
    "LostError",
    "Pool",
    "PrivilegeError",
    "RamsterError",
    "StartError",
    "array",
    "configure",
    "empty",
    "from_file",
    "numpy",
    "stats",
    "zeros",
]

_HOMES = {
    "ramster.doors.arrays": ("array", "empty", "from_file", "numpy", "zeros"),
    "ramster.doors.pools": ("Cache", "Pool"),
    "ramster.doors.runtime": ("configure", "stats"),
    "ramster.errors": ("ConfigError", "LostError", "PrivilegeError", "RamsterError", "StartError"),
}


def __getattr__(name: str) -> Any:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'ramster' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
