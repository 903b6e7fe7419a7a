"""Work beside the kernel: a slow pulse for what changes by itself, a worker for what takes a while.

Widget callbacks must return at once; both classes use daemon threads, and both only set widget traits
(never print), which is safe from any thread.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ftkit import threads
from ftkit.redact import redact

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
Tell = Callable[[str, "float | None"], None]
SECONDS_BETWEEN_LOOKS = 3.0
"""How often an ended run is looked at: it may be resumed elsewhere."""


class Cancelled(Exception):  # noqa: N818 - not an error
    """Raised out of a progress callback to end work that nobody waits for any more."""


class Ticker:
    """Call a function `hz` times a second until it returns False or `stop()` is called.

    Parameters
    ----------
    function
        Returns False when there is nothing more to follow. An exception ends the ticking, too, and is
        kept in `error`.
    hz
        Calls per second.
    idle
        Seconds until the next call after one that returned False, for what may begin again elsewhere.
        None: the ticking ends.
    """

    def __init__(
        self, function: Callable[[], bool | None], hz: float = 3.0, idle: float | None = None
    ) -> None:
        self.error: Exception | None = None
        self._function = function
        self._pause = 1.0 / hz
        self._idle = idle
        self._woken = threading.Event()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._stopped.set()

    def __repr__(self) -> str:
        return f"Ticker(hz={1 / self._pause:g}, running={self.running})"

    @property
    def running(self) -> bool:
        """Whether the function is being called."""
        return not self._stopped.is_set()

    def start(self) -> None:
        """Begin; when already ticking, call the function now."""
        with self._lock:
            self._woken.set()
            if self.running:
                return
            self._stopped = threading.Event()
            threads.begin(self._tick, self._stopped, name="ftkit-ticker")

    def stop(self) -> None:
        """End after the call under way. Safe from inside the function."""
        self._stopped.set()
        self._woken.set()

    def _tick(self, stopped: threading.Event) -> None:
        while not stopped.is_set():
            self._woken.clear()
            pause = self._pause
            try:
                if self._function() is False:
                    if self._idle is None:
                        break
                    pause = self._idle
            except Exception as error:  # noqa: BLE001 - a thread has no caller; the owner reads `error`
                self.error = error
                _log.error("a panel's ticker ended\n%s", redact(traceback.format_exc()))
                break
            if not stopped.is_set():
                self._woken.wait(pause)
        stopped.set()


class Worker(Generic[_Result]):
    """Do slow work in a thread; only the newest request is delivered, older ones are dropped.

    Parameters
    ----------
    done
        Gets the result of the newest request, in the worker's thread.
    failed
        Gets the exception of the newest request, in the worker's thread.
    dropped
        Gets a result that came too late to be delivered, for results that have to be given back.
    """

    def __init__(
        self,
        done: Callable[[_Result], Any],
        failed: Callable[[Exception], Any],
        dropped: Callable[[_Result], Any] | None = None,
    ) -> None:
        self._done = done
        self._failed = failed
        self._dropped = dropped
        self._lock = threading.RLock()
        self._newest = 0
        self._finished = threading.Event()
        self._finished.set()

    @property
    def busy(self) -> bool:
        """Whether the newest request is still being worked on."""
        return not self._finished.is_set()

    def submit(self, function: Callable[[], _Result], delay: float = 0.0) -> None:
        """Call `function` in a thread, `delay` seconds from now unless a newer request comes first."""
        ticket, finished = self._begin()
        self._start(function, delay, ticket, finished)

    def submit_told(self, function: Callable[[Tell], _Result], tell: Tell, delay: float = 0.0) -> None:
        """As `submit`, for work that tells how far it is, which ends it once nobody waits for it."""
        ticket, finished = self._begin()

        def told(text: str, fraction: float | None) -> None:
            with self._lock:  # nothing is told once `cancel` has returned
                if not self.is_newest(ticket):
                    raise Cancelled
                tell(text, fraction)

        self._start(lambda: function(told), delay, ticket, finished)

    def cancel(self) -> None:
        """Forget the request under way: its result will not be delivered."""
        with self._lock:
            self._newest += 1
            self._finished.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the newest request is delivered or cancelled. False when `timeout` passed first."""
        return self._finished.wait(timeout)

    def is_newest(self, ticket: int) -> bool:
        """Whether no newer request came after `ticket`."""
        return ticket == self._newest

    def _begin(self) -> tuple[int, threading.Event]:
        with self._lock:
            self._newest += 1
            self._finished = threading.Event()
            return self._newest, self._finished

    def _start(
        self, function: Callable[[], _Result], delay: float, ticket: int, finished: threading.Event
    ) -> None:
        threads.begin(self._work, function, delay, ticket, finished, name="ftkit-worker")

    def _work(
        self, function: Callable[[], _Result], delay: float, ticket: int, finished: threading.Event
    ) -> None:
        if delay:
            finished.wait(delay)
        try:
            if not self.is_newest(ticket):
                return
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - handed to the panel, which shows it
                if self.is_newest(ticket):
                    self._failed(error)
            else:
                if self.is_newest(ticket):
                    self._done(result)
                elif self._dropped is not None:
                    self._dropped(result)
        except Exception:  # noqa: BLE001 - as above: a thread has no caller
            _log.error("a panel could not show a result\n%s", redact(traceback.format_exc()))
        finally:
            finished.set()
