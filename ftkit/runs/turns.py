"""Whose turn it is to train on this machine: runs of all its kernels wait for one another, in order.

Two runs at once on one machine fight for its memory and cores, and both crawl or die. Each run that wants to
train draws a ticket, a file that it holds locked; it may begin when no earlier ticket is held. The system
takes the locks of a process that dies, however it dies, so a ticket left behind holds nobody up.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ftkit.folders import queue_folder

_count = itertools.count()


@contextlib.contextmanager
def turn(wait: Callable[[int], bool]) -> Iterator[bool]:
    """Queue up; inside the block it is this run's turn, until the block is left.

    Parameters
    ----------
    wait
        Called a few times a second with how many runs are ahead; False gives up.

    Yields
    ------
    bool
        Whether the turn came: False where `wait` gave up.
    """
    queue = queue_folder()
    queue.mkdir(parents=True, exist_ok=True)
    ticket = queue / f"{time.time_ns():020d}-{os.getpid()}-{next(_count)}"
    held = _lock(ticket)
    with _lock(queue / "lock"):  # a ticket that is not held yet would look like a dead one
        held.acquire()
    try:
        given_up = False
        while (ahead := _ahead(queue, ticket)) and not given_up:
            given_up = not wait(ahead)
        yield not given_up
    finally:
        with _lock(queue / "lock"):
            held.release()
            ticket.unlink(missing_ok=True)


def _ahead(queue: Path, mine: Path) -> int:
    """How many earlier tickets are held; those that are not go."""
    ahead = 0
    with _lock(queue / "lock"):
        for ticket in queue.glob("*-*-*"):
            if ticket.name >= mine.name:
                continue
            try:
                with _lock(ticket).acquire(timeout=0):
                    pass
            except Timeout:
                ahead += 1
            else:
                ticket.unlink(missing_ok=True)
    return ahead


def _lock(path: Path) -> FileLock:
    return FileLock(path, thread_local=False)
