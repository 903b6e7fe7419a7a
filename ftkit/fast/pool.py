"""Memory for the large tensors of a step, kept from one use to the next.

All layers of a step need the same buffers. Taken from the C library each time, a large one costs a page fault
for every 4 kB (4 MB: 1.5 ms, against 0.1 ms for writing them), and one of a few MB is cut from whatever the
heap has: kept and passing ones stand side by side, and the heap gets full of holes that fit nothing (the
starter model in float32, 8 rows of 235 tokens: 0.5 GB). Here each has a block of its own, which goes back
to the pool when the last tensor over it is gone, and is then the next one's of about its size.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import math
import mmap
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import torch

LEAST = 2**20
"""Bytes from which a tensor comes from the pool."""
ROOM, SPARE = 1.125, 1.4
"""A block is made so many times as large as is asked for, since the next step's rows may be a little longer
(pages that are never written to take no memory); it is used for what needs at least this share of it."""
STALE = 256
"""Blocks put back after one that waits, from which that one may go: a layer uses some 50, again and again."""


@dataclass(eq=False)
class _Block:
    size: int
    turn: int
    """When it was last put back."""
    memory: mmap.mmap


class Pool:
    """Blocks of memory: those in use are known to their tensors, those that wait to the pool."""

    def __init__(self) -> None:
        self._waiting: list[_Block] = []
        """By size."""
        self._returned: collections.deque[_Block] = collections.deque()
        """Put back and not sorted in: a tensor may go at any moment, of a thread that is in here too."""
        self._turn = 0
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Bytes that are held and not in use."""
        with self._lock:
            self._sort_in()
            return sum(block.size for block in self._waiting)

    def empty(self, size: int) -> memoryview:
        """`size` bytes with anything in them; they are free again when nothing refers to what is returned."""
        with self._lock:
            self._sort_in()
            place = bisect.bisect_left(self._waiting, size, key=lambda block: block.size)
            if place < len(self._waiting) and self._waiting[place].size <= SPARE * size:
                block = self._waiting.pop(place)
            else:
                self._let_go(size, place)
                block = _Block(round(ROOM * size), 0, _memory(round(ROOM * size)))
        view = memoryview(block.memory)[:size]
        weakref.finalize(view, self._put_back, block).atexit = False
        return view

    def release(self) -> None:
        """Give back what waits."""
        with self._lock:
            self._returned.clear()
            self._waiting.clear()

    def _put_back(self, block: _Block) -> None:
        if _users:  # otherwise the last one has left
            self._returned.append(block)

    def _sort_in(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self._turn += 1
            block.turn = self._turn
            bisect.insort(self._waiting, block, key=lambda one: one.size)

    def _let_go(self, size: int, place: int) -> None:
        """Give back so many bytes of what would pile up: the block before `place`, if it is just too small
        (the step before had shorter rows), and what has waited long (sizes of other steps).
        """
        gone = []
        if place and self._waiting[place - 1].size * SPARE >= size:
            gone.append(self._waiting[place - 1])
        stale = (block for block in self._waiting if self._turn - block.turn > STALE)
        gone += sorted(stale, key=lambda block: block.turn)
        for block in dict.fromkeys(gone):
            if size <= 0:
                break
            self._waiting.remove(block)
            size -= block.size


def _memory(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):  # fewer page faults, where the system has large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


_POOL = Pool()
_users = 0
_lock = threading.Lock()


@contextlib.contextmanager
def in_use() -> Iterator[None]:
    """While anyone is inside, large tensors come from the pool; the last to leave gives back what waits."""
    global _users
    with _lock:
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _POOL.release()


def empty(like: torch.Tensor, *shape: int) -> torch.Tensor:
    """A tensor of `like`'s type and device with anything in it, contiguous.

    Small ones are torch's own, as are all where the pool is not in use or the system is not Linux.
    """
    size = math.prod(shape) * like.element_size()
    if size < LEAST or not _users or not like.is_cpu or sys.platform != "linux":
        return like.new_empty(shape)
    try:
        block = _POOL.empty(size)
    except OSError:  # no memory: without what waits torch may find some, or fails with its own words
        _POOL.release()
        return like.new_empty(shape)
    return torch.frombuffer(block, dtype=like.dtype).view(shape)
