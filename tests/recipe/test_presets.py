"""Presets: named changes that fit each method."""

from __future__ import annotations

import pytest

from ftkit.errors import RecipeError
from ftkit.recipe import FullFineTuning, Recipe, presets


@pytest.mark.parametrize("method", ["lora", "full", "adalora", "vera", "ia3", "prompt_tuning"])
@pytest.mark.parametrize("objective", ["sft", "pretraining", "dpo", "kto", "grpo"])
def test_a_preset_is_recognised_after_it_was_applied(method: str, objective: str) -> None:
    recipe = Recipe(method=method, objective=objective)
    for name in presets.PRESETS:
        recipe = presets.apply(recipe, name)
        assert presets.matching(recipe) == name


def test_presets_are_those_of_the_method_and_the_objective() -> None:
    thorough = presets.apply(Recipe(method="vera", objective="grpo"), "thorough")
    assert thorough.method.rank == 512
    assert thorough.objective.num_generations == 8
    quick = presets.apply(thorough, "quick look")
    assert quick.method.rank == 128
    assert quick.objective.num_generations == 4
    assert presets.apply(Recipe(objective="dpo"), "quick look").training.learning_rate == 5e-5


def test_the_default_recipe_is_balanced() -> None:
    assert presets.matching(Recipe()) == "balanced"
    assert presets.matching(Recipe(training={"epochs": 7})) is None


def test_a_preset_leaves_model_data_and_folder_alone() -> None:
    recipe = Recipe(model="org/name", data="rows.jsonl", output={"name": "mine"})
    after = presets.apply(recipe, "quick look")
    assert (after.model, after.data, after.output) == (recipe.model, recipe.data, recipe.output)


def test_presets_go_from_short_to_long_and_full_fine_tuning_learns_slower() -> None:
    full = Recipe(method=FullFineTuning())
    for preset in presets.PRESETS.values():
        assert preset.changes(full)["training.learning_rate"] <= 5e-5
        assert "method.rank" not in preset.changes(full)
    epochs = [preset.training["epochs"] for preset in presets.PRESETS.values()]
    assert epochs == sorted(epochs)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(RecipeError) as raised:
        presets.apply(Recipe(), "fast")
    assert "quick look" in raised.value.advice
