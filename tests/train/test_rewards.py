"""Reward functions: the ready ones, those of a notebook, and what is said of one that goes wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from ftkit.errors import RunError
from ftkit.recipe import Recipe
from ftkit.train.rewards import Reward, register, resolve, with_functions

COLUMNS: dict[str, Any] = {
    "prompts": [[{"role": "user", "content": "?"}]] * 3,
    "completions": ['{"a": 1}', "no", "[1] and"],
    "answer": ["x", " no ", "y"],
    "row": [4, 7, 9],
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("json", [1, 0, 0]),
        ("exact_match", [0, 1, 0]),
        ("regex:^[a-z]+$", [0, 1, 0]),
        ("length:4", [1 - 8 / 4, 0, 1 - 7 / 4]),
    ],
)
def test_ready_rewards(name: str, expected: list[float]) -> None:
    assert resolve([name])[name](COLUMNS) == expected


def test_a_function_is_called_with_what_it_names() -> None:
    def mine(completions: list[str], row: list[int]) -> list[float]:
        return [len(text) + number for text, number in zip(completions, row, strict=True)]

    recipe = with_functions(Recipe(objective={"type": "grpo", "rewards": ["json"]}), [mine])
    assert recipe.objective.rewards == ("json", "mine")
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert resolve(recipe.objective.rewards)["mine"](COLUMNS) == [12, 9, 16]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda completions: [1.0, math.nan, 0.0], "returned nan for row 7"),
        (lambda completions: [1.0, None, 0.0], "returned None for row 7"),
        (lambda completions: [1.0, "0.5", 0.0], "returned '0.5' for row 7"),
        (lambda completions: [1.0], "returned 1 values for 3 replies"),
        (lambda completions: 1.0, "returned float for 3 replies"),
        (lambda completions: [1 / (text != "no") for text in completions], "failed on row 7: ZeroDivision"),
    ],
)
def test_what_is_wrong_with_a_function_is_said_with_its_row(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(RunError, match=f"'judge'.*{said}"):
        Reward("judge", function)(COLUMNS)


@pytest.mark.parametrize("names", [(), ("unheard_of",), ("regex:(",), ("length:0x",), ("length",)])
def test_rewards_that_cannot_be_had_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(RunError):
        resolve(names)


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(RunError, match="name of its own"):
        register(lambda completions: [0.0])
    with pytest.raises(RunError, match="takes no reward"):
        with_functions(Recipe(), [test_a_lambda_needs_a_name])
