"""What every section of a Recipe is: frozen, strict, documented, with a hint for a misspelt key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Lines = Annotated[tuple[str, ...], "lines"]
"""Texts that may hold spaces and commas: typed one a line."""
Presets = Mapping[str, Mapping[str, Any]]
"""What presets change, by dotted path, under the names of `ftkit.recipe.presets`."""


class Section(BaseModel):
    """A part of a Recipe. Frozen: change one with `Recipe.replace`, which validates the result."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        str_strip_whitespace=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            unknown = [key for key in values if key not in cls.model_fields]
            if unknown:
                shown = [_unknown_key(str(key)[:80], list(cls.model_fields)) for key in unknown[:5]]
                raise ValueError("; ".join(shown))
            for key, value in values.items():
                if not _is_writable(value):
                    raise ValueError(f"{key} holds a character that no file and no name can have")
        return values


class Kind(Section):
    """One of several that a person chooses from, a method or an objective. What they read before they choose
    is made of it by `ftkit.recipe.cards`: the docstring is one sentence with the paper in parentheses."""

    title: ClassVar[str] = ""
    """What it is called on the screen."""
    rate: ClassVar[float] = 1.0
    """A good learning rate for it, as a multiple of that of supervised fine-tuning with LoRA."""
    presets: ClassVar[Presets] = {}
    """What a preset changes for it beside the preset's own fields."""
    main: ClassVar[tuple[str, ...]] = ()
    """The fields that matter first; panels fold the others away. Empty: all."""
    needs: ClassVar[Mapping[str, str]] = {}
    """Fields that no default can fill, each with what to put there: a panel asks for them before Start."""
    package: ClassVar[str] = ""
    """Distribution that it needs and that does not come with ftkit; empty for none."""
    extra: ClassVar[str] = ""
    """ftkit's extra that installs the package."""


def _is_writable(value: Any) -> bool:
    """Whether a text has neither NUL nor half of a surrogate pair."""
    if isinstance(value, dict):
        return all(map(_is_writable, (*value.keys(), *value.values())))
    text = str(value) if isinstance(value, (str, Path)) else ""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def _unknown_key(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"
