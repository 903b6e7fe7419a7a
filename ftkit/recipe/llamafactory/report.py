"""What became of a LLaMA-Factory file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ftkit.errors import RecipeError
from ftkit.recipe.schema import Recipe

KINDS = ("train", "predict", "export", "chat")


@dataclass(frozen=True)
class Problem:
    """Why a file cannot become a Recipe.

    Attributes
    ----------
    keys
        The keys of the file that are meant.
    message
        What is wrong.
    advice
        What to do.
    """

    keys: tuple[str, ...]
    message: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{', '.join(self.keys)}: {self.message}" + (f" {self.advice}" if self.advice else "")


@dataclass(frozen=True)
class Import:
    """What became of every key.

    Attributes
    ----------
    kind
        train, predict, export or chat: told by the keys.
    recipe
        The Recipe; None where there are errors.
    mapped
        Keys that set fields: what each became.
    honoured
        Keys that ask for what ftkit does anyway.
    not_applicable
        Keys that have no effect here: why.
    errors
        What keeps the file from becoming a Recipe.
    assumed
        LLaMA-Factory's own values of keys that the file leaves out, where ftkit's differ.
    settings
        How replies are made (`ftkit.chat.Sampling`), of a file for chat or predictions.
    advice
        What to do with the Recipe: how ftkit does what the file is for.
    """

    kind: str
    recipe: Recipe | None
    mapped: Mapping[str, str]
    honoured: Mapping[str, str]
    not_applicable: Mapping[str, str]
    errors: tuple[Problem, ...]
    assumed: Mapping[str, str]
    settings: Mapping[str, Any]
    advice: tuple[str, ...]

    def checked(self) -> Recipe:
        """The Recipe.

        Raises
        ------
        RecipeError
            When there are errors: all of them, a line each.
        """
        if self.recipe is None:
            lines = "\n".join(map(str, self.errors))
            raise RecipeError(f"The LLaMA-Factory file cannot become a Recipe:\n{lines}", "Mend these keys.")
        return self.recipe

    def to_dict(self) -> dict[str, Any]:
        """All of it as values of JSON; `mapped` has the honoured keys as well."""
        return {
            "kind": self.kind,
            "recipe": self.recipe.model_dump(mode="json") if self.recipe is not None else None,
            "mapped": {**self.mapped, **self.honoured},
            "not_applicable": dict(self.not_applicable),
            "errors": [asdict(problem) for problem in self.errors],
            "honoured": list(self.honoured),
            "assumed": dict(self.assumed),
            "settings": dict(self.settings),
            "advice": list(self.advice),
        }
