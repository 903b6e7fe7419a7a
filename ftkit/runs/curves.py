"""A curve of any length in bounded memory, and the few points of it that a chart needs.

A chart needs about as many points as it has pixels. `Curve` keeps every point as long as they are few; then
neighbours share a bin, of which the first point, the last, the lowest, the highest and the mean are kept.
`extremes` chooses among points, `Smoother` is the moving average drawn over a noisy curve. Nothing here knows
of runs.
"""

from __future__ import annotations

import base64
import math
import threading
from bisect import bisect_right
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Point = tuple[float, float]

BINS = 1_024
"""The most bins of a curve; when there are more, each two become one."""

_VALUE = itemgetter(1)


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

    Parameters
    ----------
    strength
        0 (not at all) to 0.999.
    gap
        The distance of neighbouring points, where the first two do not tell it.
    """

    def __init__(self, strength: float, gap: float | None = None) -> None:
        self.strength = min(max(float(strength), 0.0), 0.999)
        self._sum = 0.0
        self._weight = 0.0
        self._last: float | None = None
        self._gap = gap

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


@dataclass(slots=True)
class Bin:
    """What is kept of neighbouring points."""

    first: Point
    last: Point
    low: Point
    high: Point
    total: float
    count: int

    @classmethod
    def of(cls, points: list[Point]) -> Bin:
        """The bin of `points`, in order of their steps."""
        low, high = min(points, key=_VALUE), max(points, key=_VALUE)
        return cls(points[0], points[-1], low, high, sum(map(_VALUE, points)), len(points))

    def add(self, point: Point) -> None:
        """Take in one more point behind the others."""
        value = point[1]
        self.last = point
        if value < self.low[1]:
            self.low = point
        elif value > self.high[1]:
            self.high = point
        self.total += value
        self.count += 1

    def before(self, x: float) -> Bin:
        """What is known of the points up to `x`."""
        return Bin.of([point for point in self.known() if point[0] <= x])

    def known(self) -> list[Point]:
        """The points that are kept, each once, in order."""
        if self.count == 1:
            return [self.first]
        return sorted({self.first, self.low, self.high, self.last})

    def joined(self, other: Bin) -> Bin:
        """This bin and the one behind it as one."""
        low, high = min(self.low, other.low, key=_VALUE), max(self.high, other.high, key=_VALUE)
        return Bin(self.first, other.last, low, high, self.total + other.total, self.count + other.count)


class Curve:
    """One curve of a run. Its methods may be called from any thread.

    What is kept depends on the points alone, not on when they were read: a curve that was saved, loaded and
    continued equals one that was read in one go.

    Parameters
    ----------
    most
        The most bins, an even number.
    """

    def __init__(self, most: int = BINS) -> None:
        self.changes = 0
        """Grows with every change: whoever draws the curve sees that it has to."""
        self._most = most
        self._width = 1
        self._gap: float | None = None
        self._bins: list[Bin] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many points are kept."""
        with self._lock:
            return sum(len(each.known()) for each in self._bins)

    def __bool__(self) -> bool:
        """Whether there are points."""
        return bool(self._bins)

    @property
    def last(self) -> float | None:
        """The newest value."""
        with self._lock:
            return self._bins[-1].last[1] if self._bins else None

    @property
    def lowest(self) -> Point | None:
        """Step and value of the lowest point."""
        with self._lock:
            return min((each.low for each in self._bins), key=_VALUE, default=None)

    def append(self, x: float, y: float) -> bool:
        """Add a point; a value that is not finite cannot be drawn and is left out.

        A step that was there already, or comes before the last, replaces what follows it.
        """
        if not (math.isfinite(x) and math.isfinite(y)):
            return False
        with self._lock:
            if self._bins and x <= self._bins[-1].last[0]:
                self._cut(math.nextafter(x, -math.inf))
            if self._bins and self._gap is None:
                self._gap = x - self._bins[0].first[0]
            self._add((x, y))
            self.changes += 1
        return True

    def cut(self, x: float) -> bool:
        """Take away the points after `x`. Returns whether there were any."""
        with self._lock:
            if not self._bins or self._bins[-1].last[0] <= x:
                return False
            self._cut(x)
            self.changes += 1
        return True

    def points(self, limit: int = 1_000) -> tuple[Floats, Floats]:
        """At most `limit` points as two arrays, x and y: the first, the last and the extremes between."""
        with self._lock:
            known = [point for each in self._bins for point in each.known()]
        return _few(known, limit)

    def smoothed(self, strength: float, limit: int = 1_000) -> tuple[Floats, Floats]:
        """At most `limit` points of the moving average; of a long curve over the means of its bins."""
        with self._lock:
            means = [((each.first[0] + each.last[0]) / 2, each.total / each.count) for each in self._bins]
            smoother = Smoother(strength, self._gap)
        return _few([(x, smoother.push(x, y)) for x, y in means], limit)

    def to_json(self) -> dict[str, Any]:
        """The curve as values that JSON holds: `from_json` makes it again."""
        with self._lock:
            rows = [
                (*each.first, *each.last, *each.low, *each.high, each.total, each.count)
                for each in self._bins
            ]
            packed = np.array(rows, dtype="<f8").tobytes()
            return {"width": self._width, "gap": self._gap, "bins": base64.b64encode(packed).decode()}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Curve:
        """The curve that `to_json` gave.

        Raises
        ------
        ValueError, TypeError, KeyError
            When it is not one.
        """
        curve = cls()
        curve._width, curve._gap = int(saved["width"]), saved["gap"]
        rows = np.frombuffer(base64.b64decode(saved["bins"]), dtype="<f8").reshape(-1, 10).tolist()
        for row in rows:
            first, last, low, high = ((row[i], row[i + 1]) for i in range(0, 8, 2))
            curve._bins.append(Bin(first, last, low, high, row[8], int(row[9])))
        curve.changes = len(rows)
        return curve

    def _add(self, point: Point) -> None:
        if self._bins and self._bins[-1].count < self._width:
            self._bins[-1].add(point)
            return
        if len(self._bins) == self._most:
            self._width *= 2
            pairs = zip(self._bins[::2], self._bins[1::2], strict=True)
            self._bins = [one.joined(other) for one, other in pairs]
        self._bins.append(Bin(point, point, point, point, point[1], 1))

    def _cut(self, x: float) -> None:
        del self._bins[bisect_right(self._bins, x, key=lambda each: each.first[0]) :]
        if self._bins and self._bins[-1].last[0] > x:
            self._bins[-1] = self._bins[-1].before(x)
        if not self._bins:
            self._width, self._gap = 1, None


def _few(points: list[Point], limit: int) -> tuple[Floats, Floats]:
    x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
    kept = extremes(x, y, limit)
    return x[kept], y[kept]
