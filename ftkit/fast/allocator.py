"""How the C library hands out memory while a model trains.

glibc takes a large buffer from the system by itself at first and, once it has been freed, cuts later ones of
its size from the heap. A training step's buffers are of ever other sizes: the heap gets holes and grows from
step to step (measured on the starter model, rows of 220 tokens, feed-forward made again: 2.09 GB against
1.82 GB after four steps). A fixed limit keeps the large ones apart; smaller ones stay on the heap, where they
cost no page faults.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

APART_FROM = 8 * 2**20
"""Bytes from which a buffer gets memory of its own, returned to the system when it is freed."""
_WEIGHT_APART_FROM = 2**18
"""The same for what stays as long as the model does."""
_M_MMAP_THRESHOLD = -3


@functools.cache
def _c_library() -> ctypes.CDLL | None:
    """glibc; None where the C library is another."""
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def keep_large_buffers_apart(limit: int = APART_FROM) -> bool:
    """Fix the limit for this process; False where the C library is not glibc."""
    library = _c_library()
    return library is not None and bool(library.mallopt(_M_MMAP_THRESHOLD, limit))


@contextlib.contextmanager
def for_weights() -> Iterator[None]:
    """While inside, weights get memory of their own: none stands between a step's buffers in the heap.

    From then on `keep_large_buffers_apart` holds.
    """
    keep_large_buffers_apart(_WEIGHT_APART_FROM)
    try:
        yield
    finally:
        keep_large_buffers_apart()


def trim() -> bool:
    """Give what has been freed inside the heap back to the system; False where the C library is not glibc.

    Many weights are smaller than `APART_FROM`: those that have been moved leave holes in the heap, which
    large buffers do not fill (measured on the starter model in float32: 0.42 GB).
    """
    library = _c_library()
    return library is not None and bool(library.malloc_trim(0))


def mapped_files() -> list[range] | None:
    """Addresses at which files are mapped into memory; None where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        addresses, *_, name = line.split(maxsplit=5)
        if name.startswith("/"):
            start, end = (int(address, 16) for address in addresses.split("-"))
            found.append(range(start, end))
    return found
