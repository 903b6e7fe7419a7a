"""The workspace: edits validate, problems are kept by field."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ftkit.errors import RecipeError
from ftkit.recipe import Recipe
from ftkit.ui import Workspace


def test_an_edit_replaces_the_recipe_and_is_announced() -> None:
    workspace = Workspace()
    seen: list[float] = []
    workspace.observe(lambda change: seen.append(change["new"].training.epochs), "recipe")
    before = workspace.recipe
    workspace.edit({"training.epochs": 3})
    assert workspace.recipe.training.epochs == 3
    assert before.training.epochs == 2
    assert seen == [3]


def test_an_invalid_edit_leaves_the_recipe_as_it_was() -> None:
    workspace = Workspace()
    before = workspace.recipe
    with pytest.raises(RecipeError, match=r"training\.epochs"):
        workspace.edit({"training.epochs": -1})
    assert workspace.recipe is before


def test_problems_come_and_go() -> None:
    workspace = Workspace()
    workspace.report("training.epochs", "no")
    workspace.report("training.seed", "no")
    workspace.report("training.epochs", None)
    assert workspace.problems == {"training.seed": "no"}


def test_a_dataset_is_current_until_the_data_change() -> None:
    workspace = Workspace()
    workspace.remember(object(), workspace.recipe.data)
    assert workspace.is_current()
    workspace.edit({"data.max_rows": 5})
    assert not workspace.is_current()


def test_forgetting_an_observer_twice_is_no_error() -> None:
    workspace = Workspace()

    def observer(_: object) -> None: ...

    workspace.observe(observer, "recipe")
    workspace.unobserve(observer, "recipe")
    workspace.unobserve(observer, "recipe")


def test_no_change_is_lost_between_threads() -> None:
    workspace = Workspace(Recipe().replace({"training.max_steps": 1}))

    def one_more(recipe: Recipe) -> Recipe:
        steps = recipe.training.max_steps
        assert steps is not None
        time.sleep(0.001)
        return recipe.replace({"training.max_steps": steps + 1})

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(workspace.change, one_more) for _ in range(30)]:
            done.result()
    assert workspace.recipe.training.max_steps == 31
