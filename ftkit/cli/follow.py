"""Show a Run in the terminal until it ends, and turn Ctrl-C into a clean stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ftkit.cli.app import INTERRUPTED
from ftkit.cli.console import out, printable

if TYPE_CHECKING:
    from ftkit.runs import Run

POLL_SECONDS = 0.2
PLAIN_LINE_SECONDS = 10.0


def follow(run: Run) -> bool:
    """Show `run` until it ends.

    The first Ctrl-C stops the run: it finishes its step and saves. The second ends the process at once.

    Returns
    -------
    bool
        True when the run finished, False when it was stopped.

    Raises
    ------
    RunError
        When the run failed.
    """
    interrupted = _Interrupted()
    stopping = False
    with interrupted.caught(), _display() as display:
        while run.active:
            if interrupted.presses and not stopping:
                stopping = True
                run.stop()
                display.say("Stopping: finishing this step, then saving. Ctrl-C again ends at once, unsaved.")
            display.show(run)
            time.sleep(POLL_SECONDS)
        display.show(run)
    run.wait()
    return run.status == "finished"


def report_stop(run: Run) -> int:
    """Say what a stopped run has left on disk and what can be done with it. Returns the exit status."""
    progress = run.progress
    steps = f"{progress.step or 0} of {progress.total_steps or '?'}"
    folder = escape(printable(str(run.path)))
    out.print(f"Stopped at step {steps}. Folder: {folder}")
    if has_weights(run):
        out.print(f"What it had learned is saved. Talk to it: [bold]ftkit chat {folder}[/]")
    else:
        out.print("It had not trained a step yet, so there is nothing to talk to.")
    out.print(f"Go on where it stopped: [bold]ftkit run {folder}[/]")
    return INTERRUPTED


def has_weights(run: Run) -> bool:
    """Whether the run's folder holds a trained adapter or model."""
    return any((run.path / name).is_dir() for name in ("adapter", "model"))


class _Interrupted:
    """Counts Ctrl-C. The second ends the process from the signal handler, whatever the main thread does."""

    def __init__(self) -> None:
        self.presses = 0

    @contextmanager
    def caught(self) -> Iterator[None]:
        previous = signal.signal(signal.SIGINT, self._press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _press(self, _number: int, _frame: Any) -> None:
        self.presses += 1
        if self.presses > 1:
            os._exit(INTERRUPTED)


@contextmanager
def _display() -> Iterator[_Bar | _Lines]:
    if not out.is_terminal:
        yield _Lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[remaining]}"),
    )
    with Progress(*columns, console=out, transient=True) as progress:
        yield _Bar(progress)


class _News:
    """What both displays do alike: read each event once, print notes and evaluations."""

    def __init__(self) -> None:
        self._seen = 0
        self.loss: float | None = None

    def read(self, run: Run) -> None:
        for event in run.events(self._seen):
            self._seen = event["n"] + 1
            kind = event["kind"]
            if kind == "train":
                self.loss = event.get("loss", self.loss)
            elif kind == "eval":
                loss = "not finite" if event["loss"] is None else f"{event['loss']:.4f}"
                self.say(f"step {event['step']}: eval loss {loss}")
            elif kind == "note":
                said = {"warning": "Warning: ", "error": "Error: "}.get(event.get("level", ""), "")
                self.say(said + event["text"])

    def say(self, text: str) -> None:
        out.print(escape(printable(text)))


class _Bar(_News):
    """A progress bar, for a terminal."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._task = progress.add_task("", total=None, numbers="", remaining="")

    def show(self, run: Run) -> None:
        self.read(run)
        now = run.progress
        remaining = f"{_clock(now.remaining)} left" if now.remaining is not None else ""
        self._progress.update(
            self._task,
            description=escape(printable(now.stage)),
            total=None if now.fraction is None else 1.0,
            completed=now.fraction or 0.0,
            numbers=_numbers(run, self.loss),
            remaining=remaining,
        )


class _Lines(_News):
    """A line now and then, for a file or a pipe."""

    def __init__(self) -> None:
        super().__init__()
        self._stage = ""
        self._next = 0.0

    def show(self, run: Run) -> None:
        self.read(run)
        now = run.progress
        changed = now.stage.partition(":")[0] != self._stage
        if not now.stage or not (changed or time.monotonic() >= self._next):
            return
        self._stage = now.stage.partition(":")[0]
        self._next = time.monotonic() + PLAIN_LINE_SECONDS
        share = "" if now.fraction is None else f"{now.fraction:.0%}"
        self.say("  ".join(part for part in (now.stage, share, _numbers(run, self.loss)) if part))


def _numbers(run: Run, loss: float | None) -> str:
    now = run.progress
    parts = []
    if now.step and now.total_steps:
        parts.append(f"step {now.step}/{now.total_steps}")
    if loss is not None:
        parts.append(f"loss {loss:.3f}")
    if now.tokens_per_second:
        parts.append(f"{now.tokens_per_second:,.0f} tok/s")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
