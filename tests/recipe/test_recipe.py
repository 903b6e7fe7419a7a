"""The Recipe is strict, survives YAML, and reproduces itself as Python."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ftkit
from ftkit.errors import RecipeError


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trainin": {}}, "did you mean 'training'"),
        ({"training": {"learning_rte": 1}}, "did you mean 'learning_rate'"),
        ({"training": {"learning_rate": "abc"}}, "training.learning_rate"),
        ({"method": {"rnk": 3}}, "did you mean 'rank'"),
        ({"method": "lroa"}, "lroa"),
        ({"objective": "pretraining", "data": {"system_prompt": "x"}}, "data.system_prompt"),
        ({"output": {"name": "../up"}}, "output.name"),
        ({"method": {"use_dora": True}, "compute": {"backend": "unsloth"}}, "does not take method.use_dora"),
        (
            {"compute": {"backend": "unsloth", "gradient_checkpointing": "mlp"}},
            "gradient_checkpointing 'mlp'",
        ),
    ],
)
def test_a_wrong_recipe_names_the_field(values: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words.replace(".", r"\.")):
        ftkit.Recipe(**values)


def test_yaml_keeps_every_field() -> None:
    recipe = ftkit.Recipe(method={"rank": 8}, training={"learning_rate": "2e-5"}, data={"max_rows": 3})
    assert ftkit.Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert recipe.training.learning_rate == 2e-5


@pytest.mark.parametrize("training", [{}, ftkit.recipe.Training(epochs=3)])
def test_a_field_that_was_called_otherwise_is_still_read(training: object) -> None:
    old = {"training": training, "output": {"keep_best": True, "keep_checkpoints": 3}}
    recipe = ftkit.Recipe(**old)
    assert recipe.training.keep_best
    assert recipe.output.keep_checkpoints == 3
    assert not ftkit.Recipe(output={"keep_best": False}).training.keep_best


def test_the_python_cell_builds_the_same_recipe() -> None:
    recipe = ftkit.Recipe(
        data="starter:persona", method="full", training={"epochs": 1}, output={"folder": "x"}
    )
    code = recipe.to_python().split("run = ")[0]
    scope: dict = {}
    exec(code, scope)
    assert scope["recipe"] == recipe


def test_replace_checks_the_result_and_leaves_the_old_one() -> None:
    recipe = ftkit.Recipe()
    assert recipe.replace({"method.rank": 4}).method.rank == 4
    with pytest.raises(RecipeError):
        recipe.replace({"training.learning_rate": "abc"})
    assert recipe == ftkit.Recipe()


def test_a_missing_recipe_file_says_so() -> None:
    with pytest.raises(RecipeError, match="no recipe at"):
        ftkit.start("nowhere.yaml")


def test_importing_ftkit_loads_no_torch() -> None:
    heavy = "('torch', 'transformers', 'pandas')"
    code = f"import sys, ftkit; ftkit.Recipe; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
