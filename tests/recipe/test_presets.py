"""Presets: named changes that fit each method."""

from __future__ import annotations

import pytest

from ftkit.errors import RecipeError
from ftkit.recipe import FullFineTuning, Recipe, presets


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("name", list(presets.PRESETS))
def test_a_preset_is_recognised_after_it_was_applied(name: str, method: str) -> None:
    assert presets.matching(presets.apply(Recipe(method=method), name)) == name


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
