"""A Recipe as the Python that reproduces it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftkit.recipe._base import Section
    from ftkit.recipe.schema import Recipe


def to_python(recipe: Recipe) -> str:
    """The notebook cell that builds `recipe`, starts it and waits; defaults are left out."""
    arguments = []
    for name in type(recipe).model_fields:
        section = getattr(recipe, name)
        if name == "version":
            continue
        changed = _changed(section)
        if list(changed) == ["source"] or (name in {"model", "data"} and not changed):
            arguments.append(f"    {name}={section.source!r},")
        elif changed or type(section) is not type(type(recipe).model_fields[name].default):
            fields = ", ".join(f"{field}={_literal(value)}" for field, value in changed.items())
            arguments.append(f"    {name}=ftkit.recipe.{type(section).__name__}({fields}),")
    body = "\n".join(arguments)
    return f"import ftkit\n\nrecipe = ftkit.Recipe(\n{body}\n)\nrun = ftkit.start(recipe)\nrun.wait()\n"


def _changed(section: Section) -> dict[str, Any]:
    return {
        name: getattr(section, name)
        for name, field in type(section).model_fields.items()
        if name != "type" and getattr(section, name) != field.default
    }


def _literal(value: Any) -> str:
    if isinstance(value, tuple) and value and all(hasattr(part, "model_fields") for part in value):
        return f"[{', '.join(map(_literal, value))}]"
    if hasattr(value, "model_fields"):  # a section inside a section
        return (
            "{" + ", ".join(f"{name!r}: {_literal(inner)}" for name, inner in _changed(value).items()) + "}"
        )
    return repr(str(value)) if isinstance(value, Path) else repr(value)
