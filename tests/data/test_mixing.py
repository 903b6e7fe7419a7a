"""Several datasets in one run: all rows of each, or drawn by weights; each is split by itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ftkit
from ftkit.data import load
from ftkit.data.mixing import order
from ftkit.data.preflight import preflight
from ftkit.errors import DataError, RecipeError
from ftkit.recipe import Data, Source


def write(folder: Path, name: str, count: int, **extra: Any) -> str:
    rows = [{"instruction": f"{name} {n}", "output": f"answer {n} of {name}", **extra} for n in range(count)]
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def asked(examples: Any) -> list[str]:
    return [example.messages[0].content for example in examples]


def test_all_rows_of_each_come_in_order_and_are_numbered_through(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"prompt": "q", "completion": ""}\n{"prompt": "p", "completion": "a"}')
    paths = [write(tmp_path, "a", 3), write(tmp_path, "b", 2), str(tmp_path / "c.jsonl")]
    dataset = load(paths, held_out_fraction=0)
    assert asked(dataset.train) == ["a 0", "a 1", "a 2", "b 0", "b 1", "p"]
    assert [example.row for example in dataset.train] == [0, 1, 2, 3, 4, 6]
    assert [part.layout.format for part in dataset.parts] == ["alpaca", "alpaca", "prompt-completion"]
    (refusal,) = dataset.refused
    assert dataset.where(refusal.row) == f"row 5 ({paths[2]}, row 0)"
    assert dataset.where(4) == f"row 4 ({paths[1]}, row 1)"


def test_each_is_split_by_itself_and_no_row_is_on_both_sides(tmp_path: Path) -> None:
    paths = [write(tmp_path, "a", 100), write(tmp_path, "b", 20)]
    data = {"source": paths[0], "mixed_with": [{"source": paths[1], "weight": 3}], "mix": "interleave_over"}
    dataset = load(ftkit.Recipe(data=data).data)
    aside = Counter(text.split()[0] for text in asked(dataset.held_out))
    assert aside == {"a": 10, "b": 2}
    assert not {example.row for example in dataset.train} & {example.row for example in dataset.held_out}
    seen = Counter(example.row for example in dataset.train)
    assert set(seen) == set(range(120)) - {example.row for example in dataset.held_out}
    assert dataset.train == load(ftkit.Recipe(data=data).data).train
    assert not preflight(dataset.train), "learned several times is not a duplicate"


@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0.2, 5)), min_size=2, max_size=4), st.integers(0, 5))
def test_interleaving_draws_by_the_weights(parts: list[tuple[int, float]], seed: int) -> None:
    sizes, weights = zip(*parts, strict=True)
    which, places = order(sizes, weights, "interleave_under", seed)
    taken = Counter(which.tolist())
    assert any(taken[part] == size for part, size in enumerate(sizes)), "ends when one is used up"
    assert len({*zip(which.tolist(), places.tolist(), strict=True)}) == len(which), "and repeats no row"
    which, places = order(sizes, weights, "interleave_over", seed)
    for part, size in enumerate(sizes):
        counts = np.bincount(places[which == part], minlength=size)
        assert len(counts) == size
        assert counts.min() >= 1, "every row is seen"
        assert counts.max() - counts.min() <= 1, "and none much more often than another"


def test_shares_follow_the_weights() -> None:
    which, _ = order([3000, 3000], [1, 3], "interleave_under", 0)
    assert np.mean(which) == pytest.approx(0.75, abs=0.03)
    with pytest.raises(DataError, match="dataset 1"):
        order([1000, 10], [1e-6, 1], "interleave_over", 0)


def test_a_recipe_with_several_goes_to_yaml_and_python_and_back(tmp_path: Path) -> None:
    recipe = ftkit.Recipe(
        data=Data(
            source="starter:extract",
            mix="interleave_under",
            mixed_with=[Source(source="starter:persona", weight=0.5, columns={"prompt": "q"})],
        )
    )
    assert ftkit.Recipe.from_yaml(recipe.to_yaml()) == recipe
    code = recipe.to_python().partition("run =")[0]
    space: dict[str, Any] = {}
    exec(code, space)
    assert space["recipe"] == recipe
    short = ftkit.Recipe(data=["starter:extract", "starter:persona"])
    assert [one.source for one in short.data.mixed_with] == ["starter:persona"]
    with pytest.raises(RecipeError, match=r"weight has no effect with data.mix 'concat'"):
        recipe.replace({"data.mix": "concat"})
    with pytest.raises(RecipeError, match=r"data.mixed_with.0: unknown key 'sauce'"):
        ftkit.Recipe(data={"source": "a.jsonl", "mixed_with": [{"sauce": "b.jsonl"}]})


def test_several_of_a_dataset_info(tmp_path: Path) -> None:
    write(tmp_path, "a", 3)
    write(tmp_path, "b", 4)
    entries = {name: {"file_name": f"{name}.jsonl"} for name in "ab"}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    dataset = load(tmp_path, subset="b, a", held_out_fraction=0)
    assert [part.name for part in dataset.parts] == [f"{tmp_path}: b", f"{tmp_path}: a"]
    assert asked(dataset.train)[:5] == ["b 0", "b 1", "b 2", "b 3", "a 0"]


def test_starter_sets_keep_their_own_held_out_rows() -> None:
    both = load(["starter:extract", "starter:persona"])
    one, other = load("starter:extract"), load("starter:persona")
    assert len(both.held_out) == len(one.held_out) + len(other.held_out)
    assert len(both.train) == len(one.train) + len(other.train)
    assert both.origin == "starter:extract + starter:persona"
