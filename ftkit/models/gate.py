"""Whose turn it is with the model: training steps and chat never compute side by side.

Two torch workloads at once on a small CPU spin against each other and both crawl, so everything that runs
the model takes a turn first. Turns are handed out first come, first served: a trainer that leaves after
each step and asks again at once finds a waiting chat ahead of it. A chat in another process has its turn the
same way: see `ftkit.models.machine`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from ftkit.models.machine import MachineTurn


class Gate:
    """A fair lock with named turns. A thread that holds the turn may take it again.

    Parameters
    ----------
    machine
        What this process's threads then have to wait for together; None: nobody else computes here.

    Attributes
    ----------
    holder
        Name of the turn that is held now, such as "training"; None while nobody holds it.
    """

    def __init__(self, machine: MachineTurn | None = None) -> None:
        self._machine = machine
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        self._owner: int | None = None
        self._depth = 0
        self.holder: str | None = None

    @property
    def waiting(self) -> int:
        """How many turns are asked for and not yet begun; all other processes count as one."""
        return len(self._queue) + (self._machine is not None and self._machine.wanted)

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Wait for the turn, hold it for the block, then hand it to whoever has waited longest.

        Parameters
        ----------
        name
            What the turn is for; shown as `holder` while it lasts.
        """
        self._enter(name)
        try:
            with self._machine.turn() if self._machine is not None else nullcontext():
                yield
        finally:
            self._leave()

    def _enter(self, name: str) -> None:
        me = threading.get_ident()
        with self._lock:
            if self._owner == me:
                self._depth += 1
                return
            if self._owner is None:
                self._take(me, name)
                return
            ready = threading.Event()
            self._queue.append(ready)
        try:
            ready.wait()
        except BaseException:
            # Ctrl-C while waiting: leave the queue, or pass on a turn that was handed over meanwhile.
            with self._lock:
                if ready in self._queue:
                    self._queue.remove(ready)
                else:
                    self._hand_over()
            raise
        with self._lock:
            self._take(me, name)

    def _take(self, thread: int, name: str) -> None:
        self._owner, self._depth, self.holder = thread, 1, name

    def _leave(self) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._hand_over()

    def _hand_over(self) -> None:
        """Give the turn to the longest waiting thread; it stays taken on the way, so that nobody slips in."""
        if self._queue:
            self._owner, self.holder = _IN_HANDOVER, None
            self._queue.popleft().set()
        else:
            self._owner, self.holder = None, None


_IN_HANDOVER = -1
"""No thread has this identity: the turn belongs to a thread that is waking up."""
