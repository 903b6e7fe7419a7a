"""What a run has said so far, read from its events a few at a time and kept in bounded memory.

The chart, its SVG stand-in and the Monitor panel all show one `History`; none of them reads events itself.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ftkit.ui._downsample import Floats, Series
from ftkit.ui.ticker import Ticker

#: Curves of "train" events, by the event's key.
TRAIN_CURVES = (
    "loss",
    "accuracy",
    "learning_rate",
    "grad_norm",
    "memory_gb",
    "gpu_memory_gb",
    "tokens_per_second",
)


@dataclass(frozen=True)
class Note:
    """A remark that a run left: `level` is "info" or "warning"."""

    level: str
    text: str


class History:
    """The curves and remarks of one run. Its methods may be called from any thread.

    Parameters
    ----------
    run
        Anything with `events(since)`; None is a run that has not said anything.
    smoothing
        Strength of the loss's moving average, 0 to 0.999.
    """

    def __init__(self, run: Any = None, smoothing: float = 0.6) -> None:
        self.run = run
        self.curves = {name: Series() for name in TRAIN_CURVES}
        self.curves["loss"].smooth(smoothing)
        self.curves["eval_loss"] = Series()
        self.curves["eval_accuracy"] = Series()
        self.notes: deque[Note] = deque(maxlen=200)
        self.peak_memory_gb: float | None = None
        self.peak_gpu_memory_gb: float | None = None
        self._next = 0
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"History({', '.join(f'{name}={len(curve)}' for name, curve in self.curves.items())})"

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw yet."""
        return not any(len(curve) for curve in self.curves.values())

    def smooth(self, strength: float) -> None:
        """Smooth the loss by another strength, 0 (not at all) to 0.999."""
        with self._lock:
            self.curves["loss"].smooth(strength)

    def points(self, name: str, limit: int = 1_000) -> tuple[Floats, Floats]:
        """Steps and values of a curve, thinned; "loss_smooth" is the loss's moving average."""
        with self._lock:
            if name == "loss_smooth":
                return self.curves["loss"].smoothed(limit)
            return self.curves[name].points(limit)

    def last(self, name: str) -> float | None:
        """The newest value of a curve."""
        with self._lock:
            return self.curves[name].last

    def best_eval(self) -> tuple[float, float] | None:
        """Step and value of the lowest eval loss."""
        with self._lock:
            return self.curves["eval_loss"].lowest

    def read(self) -> set[str]:
        """Read what is new. Returns the names of the curves that grew, "notes" among them."""
        if self.run is None:
            return set()
        changed: set[str] = set()
        with self._lock:
            for event in self.run.events(self._next):
                self._next = event["n"] + 1
                changed |= self._take(event)
        return changed

    def _take(self, event: Mapping[str, Any]) -> set[str]:
        kind = event.get("kind")
        if kind == "train":
            grown = {name for name in TRAIN_CURVES if self._append(name, event.get("step"), event.get(name))}
            self.peak_memory_gb = _highest(self.peak_memory_gb, event.get("memory_gb"))
            self.peak_gpu_memory_gb = _highest(self.peak_gpu_memory_gb, event.get("gpu_memory_gb"))
            return grown
        if kind == "eval":
            return {
                curve
                for curve, name in (("eval_loss", "loss"), ("eval_accuracy", "accuracy"))
                if self._append(curve, event.get("step"), event.get(name))
            }
        if kind == "steps":  # training starts, or starts again from a checkpoint: later steps did not happen
            return {name for name, curve in self.curves.items() if curve.cut(float(event.get("step", 0)))}
        if kind == "note":
            self.notes.append(Note(str(event.get("level", "info")), str(event.get("text", ""))))
            return {"notes"}
        return set()

    def _append(self, name: str, step: Any, value: Any) -> bool:
        if not (_is_number(step) and _is_number(value)):
            return False
        return self.curves[name].append(float(step), float(value))


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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _highest(old: float | None, new: Any) -> float | None:
    if not _is_number(new):
        return old
    return float(new) if old is None else max(old, float(new))
