"""Whose turn it is to compute on this machine: of all processes that run a model here, one does at a time.

A chat or an evaluation beside a run that lives in a process of its own would fight it for the cores, and both
would crawl. Who computes holds one file locked, `DEVICE.turn`; who waits for that holds another one,
`DEVICE.next`, until the turn has come. So whoever leaves a turn and wants the next finds the one who waits
ahead: two processes alternate. The system takes the locks of a process that dies, however it dies.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ftkit.folders import queue_folder

POLL = 0.005
"""Seconds between two looks at whether the turn has come."""
PATIENCE = 120.0
"""Seconds that a process waits for its turn at most; then it computes beside the holder."""
NO_PATIENCE = 1.0
"""The same from then on, until the turn has come again: a suspended holder holds up nobody for long."""


class MachineTurn:
    """One process's share in the turns of a device. Threads of a process are in its turn together.

    Parameters
    ----------
    folder
        Where the locks lie. On a file system that has none everybody computes when they like.
    device
        `cpu` or `cuda`: who computes on the one does not wait for the other.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        self._next = folder / f"{device}.next"
        self._turn = _lock(folder / f"{device}.turn")
        self._lock = threading.Lock()
        self._inside = 0
        self._in_vain = False

    @property
    def wanted(self) -> bool:
        """Whether another process waits for the turn."""
        try:
            with _lock(self._next).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except (OSError, NotImplementedError):
            return False

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for this process's turn, and hold it for the block."""
        with self._lock:
            if not self._inside:
                self._take()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._turn.release(force=True)

    def _take(self) -> None:
        patience = NO_PATIENCE if self._in_vain else PATIENCE
        end = time.monotonic() + patience
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _lock(self._next).acquire(timeout=patience, poll_interval=POLL):
                self._turn.acquire(timeout=max(end - time.monotonic(), 0.0), poll_interval=POLL)
            self._in_vain = False
        except Timeout:
            self._in_vain = True
        except (OSError, NotImplementedError):  # no locks here: a turn is a courtesy, computing is not
            return


def machine_turn(device: str) -> MachineTurn:
    """The turns of a device of this machine, as this process takes them."""
    return _of(queue_folder(), device)


@functools.cache
def _of(folder: Path, device: str) -> MachineTurn:
    return MachineTurn(folder, device)


def _lock(path: Path) -> FileLock:
    return FileLock(path, thread_local=False)
