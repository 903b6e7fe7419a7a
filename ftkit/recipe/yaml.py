"""A Recipe as YAML and back, without loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ftkit.errors import RecipeError
from ftkit.folders import named

if TYPE_CHECKING:
    from ftkit.recipe.schema import Recipe


LONGEST = 1_000_000
"""Characters of a Recipe; one with a very long system prompt has a hundredth."""


class PlainLoader(yaml.SafeLoader):
    """The safe loader without aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, "a Recipe has no aliases (*name)", getattr(event, "start_mark", None)
            )
        return super().compose_node(parent, index)


def to_yaml(recipe: Recipe, path: str | Path | None = None) -> str:
    """Write every field of `recipe`, in the order of the schema; returns the text."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    if path is not None:
        Path(path).write_text(text, encoding="utf-8")
    return text


def from_yaml(source: str | Path) -> Recipe:
    """Read a Recipe from a file or from YAML text.

    Raises
    ------
    RecipeError
        When the file is missing, is not YAML (with line and column) or is not a Recipe.
    """
    from ftkit.recipe.schema import Recipe

    is_text = (
        isinstance(source, str)
        and ("\n" in source or ":" in source)
        and not source.endswith((".yaml", ".yml"))
    )
    where = "the YAML text" if is_text else str(source)
    values = _mapping(str(source) if is_text else _read(named(source)), where[:200])
    _refuse_other_tools(values, where[:200])
    unknown = [key for key in values if not key.isidentifier() or key == "self"]
    if unknown:
        raise RecipeError(f"{where[:200]}: unknown section {unknown[0]!r:.80}.", "Leave it out.")
    return Recipe(**values)


def _refuse_other_tools(values: dict[str, Any], where: str) -> None:
    """Say what a file of LLaMA-Factory is, rather than that its keys are unknown."""
    from ftkit.recipe.llamafactory import looks_like
    from ftkit.recipe.schema import Recipe

    if values and not any(name in Recipe.model_fields for name in values) and looks_like(values):
        named = ", ".join(list(values)[:3])
        raise RecipeError(
            f"{where} is a file of LLaMA-Factory (it says {named}), not a Recipe.",
            "See what it becomes, and save that: ftkit import FILE.yaml --out recipe.yaml. "
            "In Python: ftkit.recipe.llamafactory.load(FILE).checked().",
        )


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(LONGEST + 1)
    except FileNotFoundError:
        raise RecipeError(
            f"There is no recipe at {path}.", "Check the path, or save one with Recipe.to_yaml()."
        ) from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"The recipe {path!s:.200} cannot be read: {error!s:.200}") from None


def _mapping(text: str, where: str) -> dict[str, Any]:
    if len(text) > LONGEST:
        raise RecipeError(f"{where} has more than {LONGEST:,} characters: no Recipe has.")
    try:
        values = yaml.load(text, Loader=PlainLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not valid YAML: {error}") from None
    except RecursionError:
        raise RecipeError(f"{where} is nested too deeply: a Recipe is sections with fields.") from None
    except (ValueError, OverflowError, AttributeError) as error:  # a date or number that cannot be
        raise RecipeError(f"{where} holds a value that cannot be: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RecipeError(f"{where} holds no Recipe: expected sections such as `model:` and `data:`.")
    return values
