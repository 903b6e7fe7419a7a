"""What a run has said so far, for the chart, its SVG stand-in and the Monitor panel.

The run itself keeps its curves, in bounded memory; a `History` knows which of them one viewer has drawn
already, and how strongly it smooths.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from ftkit.runs.curves import Floats
from ftkit.runs.summary import Note, Sample, Summary
from ftkit.ui.ticker import Ticker

__all__ = ["Follower", "History", "Note"]


class History:
    """The curves and remarks of one run as one viewer sees them. Its methods may be called from any thread.

    Parameters
    ----------
    run
        Anything with a `summary`; None is a run that has not said anything.
    smoothing
        Strength of the loss's moving average, 0 to 0.999.

    Attributes
    ----------
    beside
        Other runs whose losses are drawn with this one's: the run that it branched from, or its branches.
    """

    def __init__(self, run: Any = None, smoothing: float = 0.6) -> None:
        self.run = run
        self.beside: tuple[History, ...] = ()
        self._smoothing = smoothing
        self._summary = Summary()
        self._drawn: dict[str, int] = {}
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"History({', '.join(f'{name}={len(curve)}' for name, curve in self._summary.curves.items())})"

    @property
    def name(self) -> str:
        """The run's name."""
        return str(getattr(self.run, "name", ""))

    def put_beside(self, runs: Sequence[Any]) -> None:
        """Draw the losses of these runs, too."""
        self.beside = tuple(History(run, self._smoothing) for run in runs)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw yet."""
        return not any(self._summary.curves.values())

    @property
    def notes(self) -> tuple[Note, ...]:
        """The newest remarks, the newest last."""
        return tuple(self._summary.notes)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The newest replies of the model while it trained, the newest last."""
        return tuple(self._summary.samples)

    @property
    def notes_left(self) -> int:
        """How many remarks there were in all."""
        return self._summary.notes_left

    @property
    def peak_memory_gb(self) -> float | None:
        """The most memory that the process took."""
        return self._summary.peak_memory_gb

    @property
    def peak_gpu_memory_gb(self) -> float | None:
        """The most memory taken on the GPU; None without one."""
        return self._summary.peak_gpu_memory_gb

    def smooth(self, strength: float) -> None:
        """Smooth the loss by another strength, 0 (not at all) to 0.999."""
        self._smoothing = strength
        for other in self.beside:
            other.smooth(strength)

    def points(self, name: str, limit: int = 1_000) -> tuple[Floats, Floats]:
        """Steps and values of a curve, thinned; "loss_smooth" is the loss's moving average."""
        if name == "loss_smooth":
            return self._summary.curves["loss"].smoothed(self._smoothing, limit)
        return self._summary.curves[name].points(limit)

    def has(self, name: str) -> bool:
        """Whether a curve has points."""
        return bool(self._summary.curves["loss" if name == "loss_smooth" else name])

    def last(self, name: str) -> float | None:
        """The newest value of a curve."""
        return self._summary.curves[name].last

    def best_eval(self) -> tuple[float, float] | None:
        """Step and value of the lowest eval loss."""
        return self._summary.curves["eval_loss"].lowest

    def read(self) -> set[str]:
        """Read what is new. Returns the names of the curves that changed, "notes" among them; `beside` when
        one of the other runs changed."""
        if self.run is None:
            return set()
        with self._lock:
            summary = self.run.summary
            if summary is not self._summary:  # the first reading, or the run's log was replaced
                self._summary = summary
                self._drawn = {name: -1 for name, count in self._drawn.items() if count}
            now = {name: curve.changes for name, curve in summary.curves.items()}
            now |= {"notes": summary.notes_left, "samples": summary.samples_left}
            changed = {name for name, count in now.items() if count != self._drawn.get(name, 0)}
            self._drawn = now
        news = [other.read() for other in self.beside]
        if any(news):
            changed.add("beside")
        return changed


def with_relatives(run: Any, smoothing: float = 0.6) -> History:
    """The history of a run with those that it came from and its branches beside it."""
    from ftkit.runs.branch import relatives
    from ftkit.ui._figure import OTHERS

    history = History(run, smoothing)
    if run is not None:
        history.put_beside(relatives(run, len(OTHERS)))
    return history


class Follower:
    """Reads a run a few times a second, and once more after its end.

    Parameters
    ----------
    history
        What to keep up to date.
    draw
        Called after each reading with the names of what grew, and whether it is the last time.
    """

    def __init__(self, history: History, draw: Callable[[set[str], bool], Any], hz: float = 2.5) -> None:
        self._history = history
        self._draw = draw
        self.ticker = Ticker(self.tick, hz)

    def tick(self) -> bool:
        """Read once. Returns whether the run goes on."""
        run = self._history.run
        active = bool(run is not None and run.active)  # asked first: the reading then has all there will be
        self._draw(self._history.read(), not active)
        return active
