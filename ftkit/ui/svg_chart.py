"""The loss chart as a picture in the page: for places where plotly's widget cannot load.

It needs core ipywidgets only, so it works where the front-end lacks anywidget. Loss and eval loss, no zoom.
"""

from __future__ import annotations

import math
import threading
from html import escape
from typing import Any

import ipywidgets as widgets

from ftkit.runs.curves import Floats
from ftkit.ui import front
from ftkit.ui._figure import OTHERS, shortened
from ftkit.ui._history import Follower, History, with_relatives

_WIDTH, _HEIGHT = 900, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 30, 38
_LOSS, _EVAL = "#3d8fe0", "#f0883e"
_LINE = 20


def empty_message(run: Any) -> str:
    """What an empty chart says."""
    if run is None:
        return "No run to show yet"
    return "Waiting for the first step" if run.active else "This run logged no step"


class SvgChart(widgets.HTML):
    """A chart of a run's losses that needs no JavaScript; the same methods as `RunChart`.

    Parameters
    ----------
    run
        The run to follow, or None for an empty chart.
    history
        What was read of the run already; whoever hands it in also calls `draw`.
    """

    def __init__(self, run: Any = None, *, history: History | None = None) -> None:
        self._lock = threading.RLock()
        self._follower: Follower | None = None
        self._log = False
        super().__init__()
        self.add_class("ftk-widget")
        self.add_class("ftk-svg-chart")
        self.follow(run, history)

    def __repr__(self) -> str:
        return f"SvgChart({getattr(self._history.run, 'name', None)!r})"

    def follow(self, run: Any, history: History | None = None) -> None:
        """Show another run. With a `history` its owner calls `draw`; without, the chart follows by itself."""
        with self._lock:
            self._end_following()
            self._history = history or with_relatives(run)
            self.draw()
            if history is None and run is not None:
                self._follower = Follower(self._history, self._on_reading)
                if self._follower.tick():
                    self._follower.ticker.start()

    def log_axis(self, on: bool = True) -> None:
        """Draw the losses on a logarithmic axis, or on a linear one."""
        self._log = bool(on)
        self.draw()

    def smooth(self, strength: float) -> None:
        """Smooth the train loss: 0 (not at all) to 0.999."""
        self._history.smooth(strength)
        self.draw()

    def draw(self, changed: set[str] | None = None, final: bool = False) -> None:
        """Draw again, unless nothing in `changed` is shown here."""
        if changed is None or final or changed & {"loss", "eval_loss", "beside"}:
            with self._lock:
                picture = loss_svg(self._history, log=self._log, message=empty_message(self._history.run))
                self.value = f"<style>{front.css('chart/style.css')}</style>{picture}"

    def close(self) -> None:
        """Stop following, and remove the chart from the page."""
        self._end_following()
        super().close()

    def _on_reading(self, changed: set[str], final: bool) -> None:
        if changed or final:
            self.draw(changed, final)

    def _end_following(self) -> None:
        if self._follower is not None:
            self._follower.ticker.stop()
            self._follower = None


def loss_svg(history: History, *, log: bool = False, message: str = "") -> str:
    """The losses of a run as an accessible SVG element.

    Parameters
    ----------
    history
        What was read of the run.
    log
        Whether the vertical axis is logarithmic; losses of 0 and below are then left out.
    message
        Stands in the middle while there is nothing to draw.
    """
    curves = _drawn(history, ("loss", "loss_smooth", "eval_loss"), log)
    others = [_drawn(other, ("loss_smooth", "eval_loss"), log) for other in history.beside]
    frame = _Frame.around([points for each in (curves, *others) for points in each.values()], log)
    parts = [_opening(history)]
    if frame is None:
        middle = f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle">{escape(message)}</text>'
        return "".join([*parts, middle, "</svg>"])
    parts += frame.grid()
    for other, colour in zip(others, OTHERS, strict=False):
        parts.append(frame.line(*other["loss_smooth"], colour, 1.8))
        parts += frame.dots(*other["eval_loss"], colour, "eval loss")
    parts.append(frame.line(*curves["loss"], _LOSS, 1.0, 0.4))
    parts.append(frame.line(*curves["loss_smooth"], _LOSS, 2.2))
    parts.append(frame.line(*curves["eval_loss"], _EVAL, 2.0))
    parts += frame.dots(*curves["eval_loss"], _EVAL, "eval loss")
    if len(curves["loss"][0]) == 1:  # a line through one point shows nothing
        parts += frame.dots(*curves["loss"], _LOSS, "train loss")
    parts += _legend(bool(len(curves["eval_loss"][0])))
    parts += _names(history)
    return "".join([*parts, "</svg>"])


def _drawn(history: History, names: tuple[str, ...], log: bool) -> dict[str, tuple[Floats, Floats]]:
    """The points of some curves; on a logarithmic axis those above 0."""
    curves = {name: history.points(name, 400) for name in names}
    return {name: (x[y > 0], y[y > 0]) for name, (x, y) in curves.items()} if log else curves


class _Frame:
    """The scales: from steps and losses to places in the picture."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], log: bool) -> None:
        self._x, self._y, self._log = x, y, log

    @classmethod
    def around(cls, curves: list[tuple[Floats, Floats]], log: bool) -> _Frame | None:
        xs = [float(v) for x, _ in curves for v in x]
        ys = [float(v) for _, y in curves for v in y]
        if not xs:
            return None
        low, high = min(ys), max(ys)
        if log:
            margin = (high / low) ** 0.05 if high > low else 1.5
            return cls((min(xs), max(xs)), (low / margin, high * margin), log)
        margin = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        return cls((min(xs), max(xs)), (low - margin, high + margin), log)

    def across(self, x: float) -> float:
        low, high = self._x
        share = (x - low) / (high - low) if high > low else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def down(self, y: float) -> float:
        low, high = self._y
        if self._log:
            low, high, y = math.log(low), math.log(high), math.log(y)
        return _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> list[str]:
        parts = []
        for tick in _log_ticks(*self._y) if self._log else _ticks(*self._y, 5):
            y = self.down(tick)
            parts.append(
                f'<line class="ftk-gridline" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(
                f'<text class="ftk-tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
            )
        for tick in _ticks(*self._x, 8):
            x = self.across(tick)
            parts.append(
                f'<text class="ftk-tick" x="{x:.1f}" y="{_HEIGHT - 20}" text-anchor="middle">{tick:g}</text>'
            )
        parts.append(
            f'<text class="ftk-tick" x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle">step</text>'
        )
        return parts

    def line(self, x: Floats, y: Floats, colour: str, width: float, opacity: float = 1.0) -> str:
        if len(x) < 2:
            return ""
        points = " ".join(f"{self.across(a):.1f},{self.down(b):.1f}" for a, b in zip(x, y, strict=True))
        return (
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" '
            f'stroke-opacity="{opacity}" stroke-linejoin="round"/>'
        )

    def dots(self, x: Floats, y: Floats, colour: str, label: str) -> list[str]:
        return [
            f'<circle cx="{self.across(a):.1f}" cy="{self.down(b):.1f}" r="3.5" fill="{colour}">'
            f"<title>step {a:g}: {label} {b:.4f}</title></circle>"
            for a, b in zip(x, y, strict=True)
        ]


def _opening(history: History) -> str:
    name = escape(str(getattr(history.run, "name", "no run")))
    said = [
        f"{label} {value:.4f}"
        for label, value in (("train loss", history.last("loss")), ("eval loss", history.last("eval_loss")))
        if value is not None
    ]
    summary = escape(f", now {' and '.join(said)}" if said else ", nothing logged yet")
    height = _HEIGHT + _LINE * len(history.beside)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Losses of {name}{summary}" '
        'xmlns="http://www.w3.org/2000/svg">'
    )


def _legend(with_eval: bool) -> list[str]:
    entries = [(_LOSS, 0.4, "train loss"), (_LOSS, 1.0, "smoothed")]
    if with_eval:
        entries.append((_EVAL, 1.0, "eval loss"))
    parts, x = [], _WIDTH - _RIGHT - 112 * len(entries)
    for colour, opacity, label in entries:
        parts.append(
            f'<line x1="{x}" x2="{x + 18}" y1="14" y2="14" stroke="{colour}" stroke-width="2.5" '
            f'stroke-opacity="{opacity}"/><text x="{x + 24}" y="19">{label}</text>'
        )
        x += 112
    return parts


def _names(history: History) -> list[str]:
    """The other runs in the picture, one a line below it."""
    parts = []
    for place, (other, colour) in enumerate(zip(history.beside, OTHERS, strict=False)):
        y = _HEIGHT + _LINE * place + 12
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + 18}" y1="{y - 5}" y2="{y - 5}" stroke="{colour}" '
            f'stroke-width="2.5"/><text x="{_LEFT + 24}" y="{y}">{escape(shortened(other.name, 80))}</text>'
        )
    return parts


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) between two values."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times each power of ten between two values; evenly spaced ones where that gives too few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first > 6:
        return [10.0**power for power in range(first, last + 1) if low <= 10.0**power <= high]
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in (1, 2, 5)]
    inside = [round(tick, 12) for tick in ticks if low <= tick <= high]
    return inside if len(inside) >= 3 else _ticks(low, high, 4)
