"""What the panels share: the Recipe being edited, the run being watched, the rows last loaded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import traitlets

from ftkit.recipe import Data, Recipe


class Workspace(traitlets.HasTraits):
    """The state behind a set of panels. Panels edit and observe it; they do not know each other.

    A Recipe is frozen: an edit validates and replaces it whole, so `recipe` is valid at every moment.
    All methods may be called from any thread.
    """

    recipe: Recipe = traitlets.Instance(Recipe)
    """The Recipe as last valid."""
    run = traitlets.Any(None, allow_none=True)
    """The `ftkit.Run` being watched (started here or attached), or None."""
    dataset = traitlets.Any(None, allow_none=True)
    """The `ftkit.data.Dataset` last loaded, or None. `is_current()` says whether it is the Recipe's."""
    problems: dict[str, str] = traitlets.Dict()
    """Path of a field to what is wrong with the text in its control. A run starts only when this is empty."""
    row_tokens = traitlets.Int(0)
    """Mean length of the training rows in tokens, once they have been counted; 0 before."""
    tab = traitlets.Unicode("")
    """The panel that is asked for (`model`, `data`, `train`, `monitor`, `chat`); a Lab follows it."""
    guided = traitlets.Bool(False)
    """True inside a Lab: panels then lead on to the next one."""

    def __init__(self, recipe: Recipe | None = None, **traits: Any) -> None:
        super().__init__(recipe=Recipe() if recipe is None else recipe, **traits)
        self._lock = threading.RLock()
        self._loaded_from: Data | None = None

    def __repr__(self) -> str:
        return f"Workspace(model={self.recipe.model.source!r}, data={self.recipe.data.source!r})"

    def unobserve(self, *arguments: Any, **keywords: Any) -> None:
        """As in traitlets, but forgetting an observer twice is no error: a panel may be closed twice."""
        with contextlib.suppress(ValueError):
            super().unobserve(*arguments, **keywords)

    def edit(self, changes: dict[str, Any]) -> Recipe:
        """Change fields of the Recipe by dotted path: `edit({"training.epochs": 3})`.

        Raises
        ------
        RecipeError
            When the result would not be a Recipe. The Recipe is then as it was.
        """
        return self.change(lambda recipe: recipe.replace(changes))

    def change(self, function: Callable[[Recipe], Recipe]) -> Recipe:
        """Replace the Recipe by what `function` makes of it, with no other edit in between."""
        with self._lock:
            self.recipe = function(self.recipe)
            return self.recipe

    def report(self, path: str, problem: str | None) -> None:
        """Say what is wrong in the control of the field `path`, or with None that it is valid again."""
        with self._lock:
            problems = {key: text for key, text in self.problems.items() if key != path}
            if problem:
                problems[path] = problem
            self.problems = problems

    def remember(self, dataset: Any, data: Data) -> None:
        """Keep the rows that were loaded for `data`."""
        with self._lock:
            self._loaded_from = data
            self.dataset = dataset

    def is_current(self) -> bool:
        """Whether `dataset` holds the rows that the Recipe names now."""
        return self.dataset is not None and self._loaded_from == self.recipe.data
