"""Presets: a few named answers to "how long should it learn?", as changes to a Recipe.

What a preset means for a method or an objective (its rank, its learning rate, fewer passes) stands beside
that method or objective: `Kind.rate` and `Kind.presets`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftkit.errors import RecipeError

if TYPE_CHECKING:
    from ftkit.recipe.schema import Recipe


@dataclass(frozen=True)
class Preset:
    """Fields that change together.

    Attributes
    ----------
    name
        What it is called, in the panel and in Python.
    about
        What it does, in a line.
    rough_time
        How long the starter model takes on the starter data with two CPU cores.
    training
        Fields of `Recipe.training`.
    learning_rate
        Learning rate of supervised fine-tuning with LoRA; methods and objectives learn at a multiple of it.
    """

    name: str
    about: str
    rough_time: str
    training: Mapping[str, Any]
    learning_rate: float

    def changes(self, recipe: Recipe) -> dict[str, Any]:
        """What `recipe.replace` is to change, by dotted path."""
        method, objective = recipe.method, recipe.objective
        rate = float(f"{self.learning_rate * method.rate * objective.rate:.3g}")
        return {
            **{f"training.{name}": value for name, value in self.training.items()},
            "training.learning_rate": rate,
            **method.presets.get(self.name, {}),
            **objective.presets.get(self.name, {}),
        }


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="quick look",
            about="20 steps: enough to see that everything works and the loss falls.",
            rough_time="about a minute",
            training={"epochs": 1.0, "max_steps": 20, "batch_size": 8, "evals": 2, "checkpoints": 0},
            learning_rate=5e-4,
        ),
        Preset(
            name="balanced",
            about="A pass or two over the rows: a good first model.",
            rough_time="a few minutes",
            training={"epochs": 2.0, "max_steps": None, "batch_size": 8, "evals": 10, "checkpoints": 2},
            learning_rate=2e-4,
        ),
        Preset(
            name="thorough",
            about="More passes, with a larger adapter: slower, and watch the held-out loss for overfitting.",
            rough_time="ten minutes or more",
            training={"epochs": 5.0, "max_steps": None, "batch_size": 8, "evals": 20, "checkpoints": 5},
            learning_rate=2e-4,
        ),
    )
}


def apply(recipe: Recipe, name: str) -> Recipe:
    """The Recipe with a preset's fields.

    Raises
    ------
    RecipeError
        When there is no preset of that name.
    """
    if name not in PRESETS:
        raise RecipeError(f"There is no preset {name!r}.", f"Choose one of: {', '.join(PRESETS)}.")
    return recipe.replace(PRESETS[name].changes(recipe))


def matching(recipe: Recipe) -> str | None:
    """The preset whose fields the Recipe has, or None."""
    for name in PRESETS:
        if apply(recipe, name) == recipe:
            return name
    return None
