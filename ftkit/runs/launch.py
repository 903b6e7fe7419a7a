"""Carrying out a run in a thread of this process: one at a time, the others wait their turn."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.errors import FtkitError
from ftkit.runs.folder import RunFolder

if TYPE_CHECKING:
    from ftkit.models.load import LoadedModel

POLL = 0.05
"""Seconds between two looks at what was asked for, while a run waits."""

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "could not create a primitive")
"""How CUDA, torch's allocators and oneDNN say that there is none left."""

_queue: list[Launch] = []
_queue_changed = threading.Condition()


class Launch:
    """One carrying-out of a run: its thread, its Control and its Sink."""

    def __init__(self, folder: RunFolder, resume_from: Path | None = None) -> None:
        self.folder = folder
        self.resume_from = resume_from
        self.loaded: LoadedModel | None = None
        self.error: BaseException | None = None
        self._wish = "run"
        self._paused = False
        self._thread = threading.Thread(target=self._carry_out, name=f"ftkit-{folder.path.name}", daemon=True)

    def begin(self) -> None:
        """Queue up and return."""
        self.folder.claim()
        self.folder.request("run")
        self.emit("state", state="queued", detail=None, error=None)
        with _queue_changed:
            _queue.append(self)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still has something to do."""
        return self._thread.is_alive()

    def wish(self, wish: str) -> None:
        """Ask for `pause`, `run` or `stop`; a stop is not taken back."""
        if self._wish != "stop":
            self._wish = wish
        if wish == "stop" and self.alive:
            self.emit("state", state="stopping", detail="finishing the step, then saving", error=None)

    # Sink

    def emit(self, kind: str, **fields: Any) -> None:
        """Append an event to the run's log."""
        if kind == "environment":
            self.folder.write_json("environment.json", fields["facts"])
        self.folder.log.append(kind, **fields)

    # Control

    @property
    def stopping(self) -> bool:
        """Whether Stop was asked for, here or in another process."""
        if self._wish != "stop" and self.folder.wish() == "stop":
            self.wish("stop")
        return self._wish == "stop"

    def checkpoint(self) -> None:
        """Wait here while the run is to be paused."""
        while not self.stopping and "pause" in (self._wish, self.folder.wish()):
            if not self._paused:
                self._paused = True
                self.emit("state", state="paused", detail=None, error=None)
            time.sleep(POLL)
        if self._paused:
            self._paused = False
            if not self.stopping:
                self.emit("state", state="running", detail=None, error=None)

    # The thread

    def _carry_out(self) -> None:
        from ftkit.train.protocol import Stopped

        try:
            with self._turn():
                if self.stopping:
                    raise Stopped
                self.emit("state", state="running", detail=None, error=None)
                self._fit()
            ended = self.stopping and not self._complete()
            self.emit("state", state="stopped" if ended else "finished", detail=None, error=None)
        except Stopped:
            self.emit("state", state="stopped", detail="before the first step", error=None)
        except BaseException as error:  # noqa: BLE001  a thread must not die in silence: the run's state says why
            self._fail(error)

    def _fit(self) -> None:
        from ftkit.train.fit import fit

        fit(self.folder.recipe(), self.folder.path, self, self, self._publish, self.resume_from)

    def _publish(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    def _complete(self) -> bool:
        """Whether the last step had been taken when Stop came."""
        events = self.folder.log.read()
        total = max((event["total_steps"] for event in events if event["kind"] == "steps"), default=0)
        last = max((event["step"] for event in events if event["kind"] == "train"), default=0)
        return 0 < total <= last

    def _fail(self, error: BaseException) -> None:
        self.error = error
        message, advice = explain(error)
        if _is_no_memory(error):
            advice = self._memory_advice() or advice
        trace = "".join(traceback.format_exception(error))
        failure = {"message": message, "advice": advice, "traceback": trace}
        with contextlib.suppress(OSError):  # a full disk may be what failed: wait() still raises the error
            self.emit("state", state="failed", detail=None, error=failure)

    def _memory_advice(self) -> str:
        """What would help this very run, and how much each; empty where it cannot be told."""
        from ftkit.models.fitting import advice

        with contextlib.suppress(Exception):  # whatever fails here, the error itself is what counts
            plans = [event for event in self.folder.log.read() if event["kind"] == "plan"]
            longest = (plans[-1] if plans else {}).get("longest") or {}
            found = advice(self.folder.recipe(), row_tokens=longest.get("tokens"))
            if found and longest:
                return f"The longest row, row {longest['row']}, has {longest['tokens']:,} tokens. {found}"
            return found
        return ""

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until every earlier run of this process has ended."""
        try:
            with _queue_changed:
                while _queue[0] is not self and not self.stopping:
                    _queue_changed.wait(POLL)
            yield
        finally:
            with _queue_changed:
                _queue.remove(self)
                _queue_changed.notify_all()


def _is_no_memory(error: BaseException) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(words in said for words in _NO_MEMORY)


def explain(error: BaseException) -> tuple[str, str]:
    """What to tell a person about `error`: a message and advice."""
    if isinstance(error, FtkitError):
        return error.message, error.advice
    text = f"{type(error).__name__}: {error}"
    if _is_no_memory(error):
        return (
            f"There was not enough memory ({text.splitlines()[0]:.200}).",
            "In order of effect: halve training.batch_size and double training.gradient_accumulation_steps, "
            "lower data.max_length, set compute.gradient_checkpointing to layers, lower method.rank, "
            "or take a smaller model.",
        )
    if isinstance(error, OSError) and error.errno == 28:
        return (
            f"The disk is full ({text}).",
            "Free some space, then resume the run: its checkpoints are kept.",
        )
    return (
        text,
        "The traceback below says where it happened. The run folder keeps all that was saved until then.",
    )
