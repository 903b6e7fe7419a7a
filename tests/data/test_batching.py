"""Batches hold every row once, keep the order inside rows and the budget, and are the same for a seed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftkit.data import Encoded
from ftkit.data.batches import IGNORED, PackedCollator, PaddedCollator
from ftkit.data.batching import Batches, Share

_lengths = st.lists(st.integers(1, 60), min_size=1, max_size=120)
_ways = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 9),
        "batch_tokens": st.one_of(st.none(), st.integers(1, 150)),
        "padded": st.booleans(),
        "seed": st.one_of(st.none(), st.integers(0, 2**40)),
    }
)


@given(_lengths, _ways, st.integers(0, 3))
def test_every_row_is_in_one_batch_of_an_epoch(lengths: list[int], way: dict[str, Any], epoch: int) -> None:
    batches = Batches(lengths, **way)
    found = list(batches.epoch(epoch))
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    assert len(found) == len(batches)
    assert all(found)
    assert found == list(Batches(lengths, **way).epoch(epoch))
    batches.set_epoch(epoch)
    assert found == list(batches)


@given(_lengths, _ways, st.integers(1, 5))
def test_shares_together_are_the_batches_in_their_order(
    lengths: list[int], way: dict[str, Any], count: int
) -> None:
    batches = Batches(lengths, **way)
    batches.set_epoch(2)
    shares = [list(Share(batches, number, count)) for number in range(count)]
    assert {len(share) for share in shares} == {len(Share(batches, 0, count))} == {-(-len(batches) // count)}
    together = [batch for step in zip(*shares, strict=True) for batch in step]
    assert [batch for batch in together if batch] == list(batches)
    assert all(together[: len(batches)]), "only the last ones are empty"


@given(_lengths, _ways, st.integers(0, 3))
def test_no_batch_is_over_the_budget_unless_it_is_one_row(
    lengths: list[int], way: dict[str, Any], epoch: int
) -> None:
    for batch in Batches(lengths, **way).epoch(epoch):
        sizes = [lengths[row] for row in batch]
        if way["batch_tokens"] is None:
            assert len(batch) <= way["batch_size"]
        else:
            places = max(sizes) * len(sizes) if way["padded"] else sum(sizes)
            assert places <= way["batch_tokens"] or len(batch) == 1


@given(_lengths, _ways)
def test_efficiency_is_that_of_the_batches(lengths: list[int], way: dict[str, Any]) -> None:
    batches = Batches(lengths, **way)
    places = 0
    for batch in batches.epoch(0):
        sizes = [lengths[row] for row in batch]
        places += max(sizes) * len(sizes) if way["padded"] else max(sum(sizes), way["batch_tokens"] or 0)
    assert batches.places == places
    assert batches.efficiency == pytest.approx(sum(lengths) / places)


@given(_lengths, st.integers(60, 300))
def test_best_fit_leaves_no_two_batches_that_would_be_one(lengths: list[int], budget: int) -> None:
    sizes = sorted(sum(lengths[row] for row in batch) for batch in Batches(lengths, batch_tokens=budget))
    assert len(sizes) < 2 or sizes[0] + sizes[1] > budget
    assert len(sizes) <= 11 / 9 * -(-sum(lengths) // budget) * 2 + 1


def test_best_fit_wastes_little_of_realistic_rows() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.8, 20_000).astype(int).clip(8, 2048)
    assert Batches(lengths, batch_tokens=4096).efficiency > 0.99


def test_padded_batches_hold_rows_of_about_one_length() -> None:
    lengths = np.random.default_rng(0).integers(10, 1000, 2000)
    assert Batches(lengths, batch_size=8, padded=True).efficiency > 0.95
    assert Batches(lengths, batch_size=8).efficiency == 1.0


@pytest.mark.parametrize("way", [{}, {"padded": True}, {"batch_tokens": 200}])
def test_epochs_differ_and_seeds_differ(way: dict[str, Any]) -> None:
    lengths = [10 + n % 7 for n in range(100)]
    orders = [list(Batches(lengths, seed=seed, **way).epoch(epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    fixed = Batches(lengths, seed=None, **way)
    assert list(fixed.epoch(0)) == list(fixed.epoch(5))


_rows = st.lists(st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1), min_size=1, max_size=8)


def _encoded(rows: list[list[tuple[int, bool]]]) -> list[Encoded]:
    return [
        Encoded(np.array([one for one, _ in row], np.int32), np.array([taught for _, taught in row]), number)
        for number, row in enumerate(rows)
    ]


@given(_rows)
def test_rows_end_to_end_keep_their_order_positions_and_borders(rows: list[list[tuple[int, bool]]]) -> None:
    batch = PackedCollator()(_encoded(rows))
    assert batch["input_ids"][0].tolist() == [one for row in rows for one, _ in row]
    assert batch["position_ids"][0].tolist() == [place for row in rows for place in range(len(row))]
    assert batch["cu_seqlens"].tolist() == [0, *itertools.accumulate(len(row) for row in rows)]
    expected = [
        one if place and taught else IGNORED for row in rows for place, (one, taught) in enumerate(row)
    ]
    assert batch["labels"][0].tolist() == expected


@given(_rows)
def test_padded_rows_keep_their_order_and_padding_is_never_trained(
    rows: list[list[tuple[int, bool]]],
) -> None:
    batch = PaddedCollator(pad_id=7)(_encoded(rows))
    for place, row in enumerate(rows):
        inside = batch["attention_mask"][place].bool()
        assert inside.tolist() == [n < len(row) for n in range(len(inside))]
        assert batch["input_ids"][place][inside].tolist() == [one for one, _ in row]
        assert set(batch["labels"][place][~inside].tolist()) <= {IGNORED}
        assert [label != IGNORED for label in batch["labels"][place][inside].tolist()] == [
            bool(n and taught) for n, (_, taught) in enumerate(row)
        ]
