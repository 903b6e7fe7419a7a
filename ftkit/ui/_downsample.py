"""Many points become few that look the same: the first, the last, and each bin's lowest and highest.

A chart needs about as many points as it has pixels. `extremes` chooses them; `Series` keeps one curve
of a run of any length in bounded memory; `Smoother` is the moving average drawn over a noisy curve.
Nothing here knows of charts or runs.
"""

from __future__ import annotations

import math
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def extremes(x: Floats, y: Floats, limit: int) -> NDArray[np.intp]:
    """Choose at most `limit` points that keep the look of a curve.

    Parameters
    ----------
    x, y
        The curve, shape (n,), x ascending, all finite.
    limit
        The most points to keep, 4 or more.

    Returns
    -------
    numpy.ndarray
        Ascending indices, shape (m,) with m <= limit: the first point, the last, and of every bin (equal
        in width along x) the lowest and the highest.
    """
    count = len(x)
    if count <= limit:
        return np.arange(count)
    bins = (limit - 2) // 2
    span = x[-1] - x[0] or 1.0
    bin_of = np.minimum(((x - x[0]) / span * bins).astype(np.intp), bins - 1)
    by_bin_then_value = np.lexsort((y, bin_of))
    sorted_bins = bin_of[by_bin_then_value]
    starts = np.flatnonzero(np.diff(sorted_bins, prepend=-1))
    ends = np.append(starts[1:], count) - 1
    return np.unique(np.concatenate(([0, count - 1], by_bin_then_value[starts], by_bin_then_value[ends])))


class Smoother:
    """An exponential moving average over steps that need not be evenly spaced.

    After a step of `d` the old average weighs `strength ** (d / gap)`, where `gap` is the distance between
    the first two points, so that a hole in a curve forgets as much as the points it lacks would have. The
    sum of weights is divided out (Adam's bias correction, https://arxiv.org/abs/1412.6980, section 3), so
    the average starts at the first value rather than at 0.
    """

    def __init__(self, strength: float) -> None:
        self.strength = min(max(float(strength), 0.0), 0.999)
        self._sum = 0.0
        self._weight = 0.0
        self._last: float | None = None
        self._gap: float | None = None

    def push(self, x: float, y: float) -> float:
        """Take the next point; return the average there."""
        decay = self.strength
        if self._last is not None and self.strength > 0:
            step = max(x - self._last, 0.0)
            self._gap = self._gap or step or None
            decay = self.strength ** (step / self._gap if self._gap else 1.0)
        self._last = x
        self._sum = decay * self._sum + (1 - decay) * y
        self._weight = decay * self._weight + (1 - decay)
        return self._sum / self._weight if self._weight else y


class Series:
    """One curve of a run, kept in bounded memory.

    Parameters
    ----------
    limit
        Above twice this many points the curve is thinned to this many by `extremes`.
    smoothing
        Strength of the moving average kept beside each value, 0 (none) to 0.999; None keeps none.
    """

    def __init__(self, limit: int = 20_000, smoothing: float | None = None) -> None:
        self._limit = limit
        self._smoother = None if smoothing is None else Smoother(smoothing)
        self._x: list[float] = []
        self._y: list[float] = []
        self._smooth: list[float] = []

    def __len__(self) -> int:
        return len(self._x)

    @property
    def last(self) -> float | None:
        """The newest value."""
        return self._y[-1] if self._y else None

    @property
    def lowest(self) -> tuple[float, float] | None:
        """Step and value of the lowest point."""
        if not self._y:
            return None
        at = min(range(len(self._y)), key=self._y.__getitem__)
        return self._x[at], self._y[at]

    def append(self, x: float, y: float) -> bool:
        """Add a point; a value that is not finite cannot be drawn and is left out.

        A step that was there already, or comes before the last, replaces what follows it.
        """
        if not (math.isfinite(x) and math.isfinite(y)):
            return False
        if self._x and x <= self._x[-1]:
            self.cut(math.nextafter(x, -math.inf))
        self._x.append(x)
        self._y.append(y)
        if self._smoother is not None:
            self._smooth.append(self._smoother.push(x, y))
        if len(self._x) > 2 * self._limit:
            self._thin()
        return True

    def cut(self, x: float) -> bool:
        """Take away the points after `x`. Returns whether there were any."""
        kept = bisect_right(self._x, x)
        if kept == len(self._x):
            return False
        del self._x[kept:], self._y[kept:]
        self.smooth(self._smoother.strength if self._smoother else None)
        return True

    def smooth(self, strength: float | None) -> None:
        """Recompute the moving average with another strength."""
        self._smoother = None if strength is None else Smoother(strength)
        self._smooth = (
            []
            if self._smoother is None
            else [self._smoother.push(x, y) for x, y in zip(self._x, self._y, strict=True)]
        )

    def points(self, limit: int = 1_000) -> tuple[Floats, Floats]:
        """At most `limit` points as two arrays, x and y."""
        return _few(self._x, self._y, limit)

    def smoothed(self, limit: int = 1_000) -> tuple[Floats, Floats]:
        """At most `limit` points of the moving average, x and y."""
        return _few(self._x if self._smooth else [], self._smooth, limit)

    def _thin(self) -> None:
        kept = extremes(np.asarray(self._x), np.asarray(self._y), self._limit).tolist()
        self._x = [self._x[i] for i in kept]
        self._y = [self._y[i] for i in kept]
        self._smooth = [self._smooth[i] for i in kept] if self._smooth else []


def _few(x: list[float], y: list[float], limit: int) -> tuple[Floats, Floats]:
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    kept = extremes(xs, ys, limit)
    return xs[kept], ys[kept]
