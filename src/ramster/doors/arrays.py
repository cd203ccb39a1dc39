"""Ordinary `numpy.ndarray`s on managed memory: `empty`, `zeros`, `array`, `from_file`, and NumPy's own allocations (`numpy()`).

The array's base owns the memory, so slices and views keep it, and it is given back when the last of them dies. Pickling
copies the elements, as for any array. Object arrays are refused: their elements are pointers into memory that is not
managed.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ramster import _native
from ramster.doors import runtime

Shape = SupportsIndex | tuple[SupportsIndex, ...]
Order = Literal["C", "F"]

# A read this large costs one system call for many pages, and small enough that a file larger than local memory streams.
READ_BYTES = 4 << 20

_depth: ContextVar[int] = ContextVar("ramster_numpy_depth", default=0)


def empty(shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> NDArray[Any]:
    """A new array of `shape` and `dtype` on managed memory. Fresh memory reads as zero, but do not rely on it.

    shape: elements along each axis; the bytes are their product times the dtype's size, rounded up to pages of 4096 bytes.
    order: "C" (last axis contiguous) or "F" (first axis contiguous).

    Raises TypeError for a dtype with Python objects, ValueError for a negative size, MemoryError when the address space is full,
    PrivilegeError when the kernel does not allow userfaultfd.
    """
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError(
            f"ramster.empty: dtype {kind} holds Python objects, whose memory is not managed; use a numeric dtype"
        )
    axes = (shape,) if isinstance(shape, SupportsIndex) else tuple(shape)
    sizes = [axis.__index__() for axis in axes]
    if any(size < 0 for size in sizes):
        raise ValueError(
            f"ramster.empty: shape {tuple(sizes)} has a negative size; every axis needs 0 or more elements"
        )
    size_bytes = math.prod(sizes) * kind.itemsize
    if size_bytes == 0:
        return np.empty(sizes, kind, order)
    return np.ndarray(sizes, kind, buffer=_memory(size_bytes), order=order)


def zeros(shape: Shape, dtype: DTypeLike = float, order: Order = "C") -> NDArray[Any]:
    """As `empty`, and every element is zero. Nothing is written: fresh pages read as zero and cost nothing until they
    are used.
    """
    return empty(shape, dtype, order)


def array(values: ArrayLike, dtype: DTypeLike | None = None, order: Order = "C") -> NDArray[Any]:
    """A copy of `values` (anything that `numpy.asarray` takes) on managed memory, of the same shape.

    Raises as `empty`, and what `numpy.asarray` raises.
    """
    source = np.asarray(values, dtype=dtype)
    copy = empty(source.shape, source.dtype, order)
    copy[...] = source
    return copy


def from_file(
    path: str | os.PathLike[str],
    dtype: DTypeLike = np.uint8,
    shape: Shape | None = None,
    *,
    offset: int = 0,
    order: Order = "C",
) -> NDArray[Any]:
    """The elements that `path` holds as raw bytes from `offset` (bytes) on, read into managed memory.

    shape: by default one axis with as many whole elements as the file has left.

    Raises OSError when the file cannot be read, ValueError when it has fewer bytes than `shape` needs, and as `empty`.
    """
    kind = np.dtype(dtype)
    with open(path, "rb", buffering=0) as stream:
        left = os.fstat(stream.fileno()).st_size - offset
        if offset < 0 or left < 0:
            raise ValueError(f"ramster.from_file: offset {offset} is outside of {os.fspath(path)}")
        if shape is None:
            shape = left // kind.itemsize
        found = empty(shape, kind, order)
        if found.nbytes > left:
            raise ValueError(
                f"ramster.from_file: {os.fspath(path)} has {left} bytes after offset {offset}, "
                f"shape {found.shape} needs {found.nbytes}"
            )
        if found.nbytes:
            stream.seek(offset)
            # Both reshapes are views: the bytes in the order in which they lie in memory.
            flat = found.reshape(-1) if order == "C" else found.T.reshape(-1)
            _fill(stream, flat.view(np.uint8).data, os.fspath(path))
    return found


@contextmanager
def numpy() -> Iterator[None]:
    """Within it, large allocations that NumPy makes itself (results, temporaries) are managed memory (NEP 49).

    Holds for the current context (thread or task). Arrays made inside stay managed after it. May be nested.
    Raises PrivilegeError or StartError when the pager cannot start.
    """
    if runtime.preloaded():
        yield  # everything large is managed already
        return
    runtime.start()
    token = _depth.set(_depth.get() + 1)
    try:
        if _depth.get() == 1:
            _native.numpy_use(True)
        yield
    finally:
        _depth.reset(token)
        if _depth.get() == 0:
            _native.numpy_use(False)


def _memory(size_bytes: int) -> Any:
    """Managed memory with the buffer protocol; it is given back when the object dies."""
    if runtime.preloaded():
        return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    runtime.start()
    return _native.Region(size_bytes)


def _fill(stream: Any, target: memoryview, path: str) -> None:
    done = 0
    while done < len(target):
        count = stream.readinto(target[done : done + READ_BYTES])
        if not count:
            raise ValueError(f"ramster.from_file: {path} became shorter while it was read")
        done += count
