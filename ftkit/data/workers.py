"""Chunks of rows encoded by several processes, in order; they end with the work, with an error, or with Stop.

The processes run `python -m ftkit.data.worker` and are talked to through pipes. They do not import the
program that started them, so that a script without a main guard and a notebook's kernel work alike, on every
platform; and they read their input to its end, so that none outlives this process.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import TYPE_CHECKING, Any

from ftkit.data.wire import plain, receive_chunk, send, settings_of

if TYPE_CHECKING:
    from ftkit.data.encoded import Chunk, Limits
    from ftkit.data.example import Conversation, PlainText
    from ftkit.data.template import Template

Rows = Sequence["Conversation | PlainText"]
_TICK = 0.1
"""Seconds between two looks at whether the person has pressed Stop."""


class WorkerError(Exception):
    """A worker could not be started or has ended; the work can be done in this process instead."""


class Workers:
    """Processes that hold the tokenizer and template of `template`.

    Parameters
    ----------
    count
        How many.

    Raises
    ------
    WorkerError
        When a process cannot be started.
    """

    def __init__(self, count: int, template: Template, limits: Limits) -> None:
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._pool = ThreadPoolExecutor(count, "ftkit-workers")
        try:
            settings = settings_of(template, limits)
            for _ in range(count):
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "ftkit.data.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=_environment(),
                    start_new_session=True,
                )
                self._processes.append(process)
                self._idle.put(process)
            for process in self._processes:
                send(process.stdin, settings)  # type: ignore[arg-type]
        except (OSError, TypeError, ValueError) as error:
            self.close()
            raise WorkerError(str(error)) from error

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def encode(self, chunks: Iterable[Rows], tick: Callable[[], None]) -> Iterator[Chunk]:
        """The tokens of each chunk, in order.

        Parameters
        ----------
        tick
            Called some ten times a second while there is nothing to hand out; may raise to end it all.

        Raises
        ------
        WorkerError
            When a worker has ended. The chunks not handed out yet are not encoded.
        DataError
            What encoding raised.
        """
        waiting: deque[Future[Chunk]] = deque()
        for chunk in chunks:
            waiting.append(self._pool.submit(self._encode, chunk))
            if len(waiting) > 2 * len(self._processes):
                yield _result(waiting.popleft(), tick)
        while waiting:
            yield _result(waiting.popleft(), tick)

    def close(self) -> None:
        """End the processes at once and wait until they are gone."""
        for process in self._processes:
            process.kill()
        self._pool.shutdown(cancel_futures=True)
        for process in self._processes:
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            process.wait()

    def _encode(self, chunk: Rows) -> Chunk:
        process = self._idle.get()
        try:
            send(process.stdin, {"rows": [plain(example) for example in chunk]})  # type: ignore[arg-type]
            found = receive_chunk(process.stdout)  # type: ignore[arg-type]
        except (OSError, TypeError, ValueError) as error:
            raise WorkerError(str(error)) from error
        finally:
            self._idle.put(process)
        if found is None:
            raise WorkerError("a worker has ended")
        return found


def _result(future: Future[Chunk], tick: Callable[[], None]) -> Chunk:
    while True:
        try:
            return future.result(_TICK)
        except NotYet:
            tick()


def _environment() -> dict[str, Any]:
    """One core each, and nothing to fetch; modules are found where this process finds them."""
    alone = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    paths = [path or os.getcwd() for path in sys.path]
    return os.environ | alone | {"PYTHONPATH": os.pathsep.join(paths)}
