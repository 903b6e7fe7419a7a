"""A curve stays small, keeps what a chart needs of it, and is the same however it was read."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ftkit.runs.curves import BINS, Curve, Smoother, extremes


@pytest.mark.parametrize("count", [1, 2, 3, 1_000, 1_001, 50_000])
def test_thinning_keeps_first_last_lowest_and_highest(count: int) -> None:
    random = np.random.default_rng(0)
    x = np.cumsum(random.integers(1, 9, count)).astype(float)
    y = random.normal(size=count)
    kept = extremes(x, y, 1_000)
    assert len(kept) <= 1_000
    assert (np.diff(kept) > 0).all()
    assert {0, count - 1, int(y.argmin()), int(y.argmax())} <= set(kept.tolist())
    if count <= 1_000:
        assert len(kept) == count


def test_thinning_keeps_a_lonely_spike() -> None:
    y = np.zeros(100_000)
    y[54_321] = 9.0
    assert 54_321 in extremes(np.arange(100_000.0), y, 100)


def test_a_long_curve_stays_small_and_keeps_its_extremes() -> None:
    curve = Curve(most=500)
    for step in range(20_000):
        curve.append(step, 50.0 if step == 777 else math.sin(step))
    assert len(curve) <= 2_000
    x, y = curve.points()
    assert (x[0], x[-1]) == (0, 19_999)
    assert y.max() == 50.0


def test_the_average_is_unbiased_at_the_start_and_follows_its_definition() -> None:
    smoother = Smoother(0.9)
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    got = [smoother.push(i, v) for i, v in enumerate(values)]
    assert got[0] == pytest.approx(3.0)
    for n in range(1, len(values) + 1):
        weights = [0.9 ** (n - 1 - i) for i in range(n)]
        expected = sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights)
        assert got[n - 1] == pytest.approx(expected)


def test_the_average_forgets_by_steps_not_by_points() -> None:
    whole, gappy = Smoother(0.8), Smoother(0.8)
    for step in range(2):
        whole.push(step, 1.0)
        gappy.push(step, 1.0)
    for step in range(2, 12):
        last = whole.push(step, 1.0 if step < 11 else 2.0)
    assert gappy.push(11, 2.0) > last  # ten steps passed: the old values weigh 0.8 ** 10, not 0.8
    assert Smoother(0.0).push(0, 7.0) == 7.0


def test_values_that_cannot_be_drawn_are_left_out() -> None:
    curve = Curve()
    assert not curve.append(1, math.nan)
    assert not curve.append(math.inf, 2)
    assert not curve
    assert curve.last is None
    assert curve.lowest is None
    assert len(curve.points()[0]) == len(curve.smoothed(0.5)[0]) == 0


def test_a_short_curve_is_exact() -> None:
    curve = Curve()
    for step in range(BINS):
        curve.append(step, math.sin(step))
    x, y = curve.points(BINS)
    assert x.tolist() == list(range(BINS))
    assert y.tolist() == [math.sin(step) for step in range(BINS)]
    smoother = Smoother(0.9)
    expected = [smoother.push(step, math.sin(step)) for step in range(BINS)]
    assert curve.smoothed(0.9, BINS)[1].tolist() == pytest.approx(expected)


def test_a_curve_saved_and_continued_equals_one_read_in_one_go() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=9_000).tolist()
    whole, parts = Curve(), Curve()
    for step, value in enumerate(values):
        whole.append(step, value)
        parts.append(step, value)
        if step % 1_777 == 0:
            parts = Curve.from_json(parts.to_json())
    assert parts.to_json() == whole.to_json()


def test_a_cut_takes_what_came_after() -> None:
    curve = Curve()
    for step in range(1, 5_001):
        curve.append(step, 100.0 if step > 3_000 else float(step % 7))
    assert curve.cut(3_000)
    assert not curve.cut(3_000)
    x, y = curve.points()
    assert x[-1] <= 3_000
    assert x[-1] > 2_990
    assert y.max() == 6.0
    curve.append(2_000, 50.0)  # a step that was there replaces what follows it
    assert curve.points()[0][-1] == 2_000
    assert curve.last == 50.0
    curve.append(1, 8.0)
    assert curve.points()[1].tolist() == [8.0]
    curve.append(2, 9.0)
    assert curve.points()[0].tolist() == [1, 2]


def test_the_mean_of_a_long_noisy_curve_is_drawn() -> None:
    random = np.random.default_rng(0)
    curve = Curve()
    for step, noise in enumerate(random.normal(size=200_000).tolist()):
        curve.append(step, 3.0 + noise)
    x, y = curve.smoothed(0.6)
    assert len(x) <= 1_000
    assert abs(y - 3.0).max() < 0.5
    assert curve.points()[1].max() > 5.0
