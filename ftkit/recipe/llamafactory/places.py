"""Fields of a Recipe by their path, read from the schema itself: what this version has and allows."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from ftkit.recipe._base import Section
from ftkit.recipe.schema import Recipe


def missing(path: str, kinds: Mapping[str, str], value: Any = None) -> str | None:
    """Why this version cannot take `value` at `path`; None where it can, as far as the schema's names say.

    Parameters
    ----------
    path
        Such as `objective.beta`.
    kinds
        The type of each section that has several: `{"objective": "dpo", "method": "lora"}`.
    """
    section, _, name = path.partition(".")
    if name == "type":
        found = sorted(_classes(Recipe.model_fields[section].annotation))
        return None if value in found else f"this version of ftkit has no {section} {value!r}"
    field = find(path, kinds)
    if field is None:
        return f"this version of ftkit has no {path}" + _of(section, kinds)
    allowed = literals(field.annotation)
    if allowed is not None and value is not None and value not in allowed:
        return f"this version of ftkit has no {path} {value!r}"
    return None


def find(path: str, kinds: Mapping[str, str]) -> FieldInfo | None:
    """The field at a path; the field of a mapping for a path into it. None where there is none."""
    owner: type[Section] | None = Recipe
    field: FieldInfo | None = None
    names = path.split(".")
    for place, name in enumerate(names):
        if owner is None:
            holds_names = field is not None and get_origin(plain(field.annotation)) is dict
            return field if holds_names and place == len(names) - 1 else None
        field = owner.model_fields.get(name)
        if field is None:
            return None
        classes = _classes(field.annotation)
        owner = classes.get(kinds.get(name, ""), None if len(classes) != 1 else next(iter(classes.values())))
    return field


def plain(annotation: Any) -> Any:
    """An annotation without its constraints and without None."""
    if get_origin(annotation) is Annotated:
        return plain(get_args(annotation)[0])
    parts = [part for part in _parts(annotation) if part is not type(None)]
    return plain(parts[0]) if len(parts) == 1 and parts[0] is not annotation else annotation


def literals(annotation: Any) -> tuple[Any, ...] | None:
    """The values of a field that has a fixed choice; None for any other field."""
    inner = plain(annotation)
    return get_args(inner) if get_origin(inner) is Literal else None


def _parts(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _classes(annotation: Any) -> dict[str, type[Section]]:
    """The classes of a section by their `type`, or the only one by its name."""
    return dict(_named(annotation))


def _named(annotation: Any) -> Iterator[tuple[str, type[Section]]]:
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, Section):
            kind = part.model_fields.get("type")
            names = literals(kind.annotation) if kind is not None else None
            yield (names[0] if names else part.__name__), part


def _of(section: str, kinds: Mapping[str, str]) -> str:
    return f" for {section} {kinds[section]!r}" if section in kinds else ""
