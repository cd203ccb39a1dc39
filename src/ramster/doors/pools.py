"""`ramster.Pool` and `ramster.Cache`: put, get and flush of pages from Python, on an engine of this process. No page
fault involved.

A Pool is persistent: what was put comes back, or the get raises LostError. A Cache is ephemeral: a page may be gone,
and a get takes it out.
"""

from __future__ import annotations

import hashlib
import threading
from types import TracebackType
from typing import Self

from ramster import _native
from ramster.doors import options, runtime

PAGE_BYTES = 4096
OBJECT_BYTES = 24
# The third level of a handle is 32 bits wide.
INDEX_LIMIT = 1 << 32

_lock = threading.Lock()
_engine: _native.Engine | None = None


def _shared_engine() -> _native.Engine:
    """One engine for all pools of this process."""
    global _engine
    with _lock:
        if _engine is None:
            _engine = _native.Engine(runtime.engine_options())
        return _engine


def object_id(name: int | bytes | str) -> bytes:
    """The 192-bit object id that `name` stands for: an int below 2**192, exactly 24 bytes, or any text (hashed with BLAKE2b).

    Raises ValueError for an int that does not fit and for bytes of another length.
    """
    if isinstance(name, int):
        if not 0 <= name < 1 << (8 * OBJECT_BYTES):
            raise ValueError(f"object: {name} does not fit into 192 bits; use 0 to 2**192 - 1")
        return name.to_bytes(OBJECT_BYTES, "little")
    if isinstance(name, bytes):
        if len(name) != OBJECT_BYTES:
            raise ValueError(f"object: {len(name)} bytes given; an object id has exactly 24")
        return name
    return hashlib.blake2b(name.encode(), digest_size=OBJECT_BYTES).digest()


class _Pages:
    """What both kinds share. Thread-safe."""

    def __init__(self, shared: _native.Engine, pool: int) -> None:
        self._shared = shared
        self._pool = pool
        self._open = True

    def put(self, name: int | bytes | str, index: int, data: bytes) -> bool:
        """Keeps `data` (exactly 4096 bytes) as page `index` (0 to 2**32 - 1) of object `name`, in place of any older one.

        Returns False when it is refused for lack of room; then no older copy is left either.
        Raises ValueError for a wrong length, index or name, or when the pool is closed.
        """
        if len(data) != PAGE_BYTES:
            raise ValueError(f"put: {len(data)} bytes given; a page has exactly {PAGE_BYTES}")
        return self._live().put(self._pool, object_id(name), _index(index), data)

    def flush(self, name: int | bytes | str, index: int) -> None:
        """Forgets one page, here and on every peer. No error when it is not there."""
        self._live().flush_page(self._pool, object_id(name), _index(index))

    def flush_object(self, name: int | bytes | str) -> None:
        """Forgets all pages of an object, here and on every peer."""
        self._live().flush_object(self._pool, object_id(name))

    def close(self) -> None:
        """Forgets every page of the pool. Further use raises ValueError; closing again does nothing."""
        if self._open:
            self._open = False
            self._shared.destroy_pool(self._pool)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _live(self) -> _native.Engine:
        if not self._open:
            raise ValueError(f"this {type(self).__name__} is closed; make a new one")
        return self._shared


class Pool(_Pages):
    """A persistent pool of pages of 4096 bytes: what was put stays until it is flushed.

    durability: what its pages need before their last copy here goes, as in `ramster.configure`: `none`, `copies=2`, `disk`
        (with a `spill` configured), `ec=2+1`, `auto`. By default that of the whole run, also when `ramster set` changes it;
        one of its own stays as it is.

    Raises ConfigError for a durability that cannot be, and StartError or ConfigError when the engine cannot start with what
    `ramster.configure` was given.
    """

    def __init__(self, *, durability: str | None = None) -> None:
        wanted = None
        if durability is not None:
            wanted = options.durable(
                durability, of="durability", spill="ramster.configure(spill=...)", has_spill=runtime.has_spill()
            )
        shared = _shared_engine()
        super().__init__(shared, shared.new_pool("persistent", wanted))

    def get(self, name: int | bytes | str, index: int, *, keep: bool = True) -> bytes | None:
        """The 4096 bytes of a page, or None when it was never put. `keep=False` takes it out.

        Raises LostError when its holder died or its bytes are damaged.
        """
        return self._live().get(self._pool, object_id(name), _index(index), keep)


class Cache(_Pages):
    """An ephemeral pool of pages of 4096 bytes: the least recently used go when room is needed. Away from here each has one
    copy, whatever the durability of the run: it may vanish anyway.

    Raises StartError or ConfigError when the engine cannot start with what `ramster.configure` was given.
    """

    def __init__(self) -> None:
        shared = _shared_engine()
        super().__init__(shared, shared.new_pool("ephemeral"))

    def get(self, name: int | bytes | str, index: int) -> bytes | None:
        """Takes out the 4096 bytes of a page, or returns None when it is not there (any more). Put it again to keep it."""
        return self._live().get(self._pool, object_id(name), _index(index), False)


def _index(index: int) -> int:
    if not 0 <= index < INDEX_LIMIT:
        raise ValueError(f"index: {index} is out of range; use 0 to 2**32 - 1")
    return index
