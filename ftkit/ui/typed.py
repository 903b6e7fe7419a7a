"""What a person types into a field, as the value that it means, and a value as they would type it."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml

from ftkit.errors import FtkitError
from ftkit.recipe.yaml import PlainLoader

_ASSIGNED = re.compile(r"([{,]\s*\w+)\s*=\s*")


def kind(annotation: Any) -> tuple[Any, bool]:
    """The plain type of a field (int, float, bool, str, Path, tuple, dict, Literal); if it may be None."""
    if get_origin(annotation) is Annotated:
        return kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        optional = len(parts) < len(get_args(annotation))
        plain = [kind(part)[0] for part in parts]
        return (tuple if tuple in plain else plain[0]), optional
    origin = get_origin(annotation)
    return (origin if origin in (tuple, dict) else annotation), False


def show(value: Any, lines: bool = False) -> str:
    """A value as a person types it: `0.0002`, `1e-05`, `q_proj, v_proj`, `beta2: 0.95`; empty for None.

    Parameters
    ----------
    lines
        Texts stand one a line, rather than with commas between them.
    """
    if value is None:
        return ""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, tuple):
        return ("\n" if lines else ", ").join(map(str, value))
    return _pairs(value) if isinstance(value, Mapping) else str(value)


def read(text: str, plain: Any, optional: bool, lines: bool = False) -> Any:
    """The value of what was typed.

    Raises
    ------
    ValueError
        When it is no value of that type, in a sentence for the person who typed it.
    """
    text = text.strip()
    if not text and optional:
        return None
    if plain in (int, float) and not text:
        raise ValueError("A number is needed here.")
    if plain is int:
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number. Write it like 8.") from None
    if plain is float:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number. Write it like 0.0002 or 2e-4.") from None
    if plain is dict:
        return _mapping(text)
    if plain is tuple:
        return tuple(filter(None, map(str.strip, text.splitlines()))) if lines else _names(text)
    return Path(text) if plain is Path else text


def number(text: str, kind: Callable[[str], Any], what: str, such: str) -> Any:
    """A number that a person typed into a box of its own.

    Parameters
    ----------
    kind
        `float` or `int`.
    what, such
        What it is, and an example, for the error.

    Raises
    ------
    FtkitError
        When it is none.
    """
    try:
        return kind(text)
    except ValueError:
        raise FtkitError(f"{text[:40]!r} is no {what}.", f"Give a number such as {such}.") from None


def _names(text: str) -> str | tuple[str, ...]:
    names = tuple(re.split(r"[,\s]+", text.strip("[](), ").replace("'", "").replace('"', "")))
    return names[0] if names in (("all-linear",), ("auto",)) else tuple(filter(None, names))


def _pairs(values: Mapping[str, Any]) -> str:
    """`beta1: 0.9, beta2: 0.95`, quoted where it would be read as something else."""
    flow = yaml.safe_dump(dict(values), default_flow_style=True, sort_keys=False, width=10**9).strip()
    return flow.removeprefix("{").removesuffix("}")


def _mapping(text: str) -> dict[str, Any]:
    inside = text.removeprefix("{").removesuffix("}")
    try:
        found = yaml.load(_ASSIGNED.sub(r"\1: ", "{" + inside + "}"), Loader=PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{text[:60]!r} is no list of settings. Write it like beta2: 0.95, eps: 1e-8.")
    return {name: _number(value) for name, value in found.items()}


def _number(value: Any) -> Any:
    """YAML takes `1e-8` for a text."""
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return value
    return number if math.isfinite(number) else value
