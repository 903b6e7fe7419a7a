"""Values of a YAML file as what they mean: `2e-5` is a number though YAML reads text, `a, b` is two names."""

from __future__ import annotations

import math
import reprlib
from typing import Any

_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_EMPTY = {"", "null", "none", "~"}
_short = reprlib.Repr()
_short.maxlevel, _short.maxlist, _short.maxdict, _short.maxstring, _short.maxother = 2, 6, 6, 60, 60
_short.maxlong = 40


def shown(value: Any) -> str:
    """A value in a line of bounded length, whatever it is."""
    if value is None or isinstance(value, bool):
        return {None: "empty", True: "true", False: "false"}[value]
    return value[:80] if isinstance(value, str) else _short.repr(value)


def read(value: Any, kind: str) -> Any:
    """`value` as the kind of its key: flag, whole, number, text, names, mapping or any; None for empty.

    Raises
    ------
    ValueError
        In a sentence, when it is no such value.
    """
    if value is None or (isinstance(value, str) and kind != "any" and value.strip().lower() in _EMPTY):
        return None
    if isinstance(value, str) and value.strip() == "???":
        raise ValueError("`???` stands for a value that is still to be filled in.")
    if isinstance(value, str) and "${" in value:
        raise ValueError("`${...}` stands for a value that is written elsewhere: write the value itself.")
    return _READERS[kind](value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _WORDS:
        return _WORDS[value.strip().lower()]
    raise ValueError("It is true or false.")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("It is a number, such as 2e-5.")
    try:
        number = float(value.strip().replace("_", "") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        raise ValueError("It is a number, such as 2e-5.") from None
    if not math.isfinite(number):
        raise ValueError("It is a finite number.")
    return number


def _whole(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError("It is a whole number, such as 8.")
    return value if isinstance(value, int) else int(number)


def _text(value: Any) -> str:
    if isinstance(value, bool):  # YAML reads `no` as false
        return "yes" if value else "no"
    if not isinstance(value, (str, int, float)):
        raise ValueError("It is a text.")
    try:
        return str(value).strip()
    except ValueError:  # a number of thousands of digits
        raise ValueError("It is a text.") from None


def _names(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, (list, tuple)) else _text(value).split(",")
    return tuple(name for name in map(_text, parts) if name)


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("It is a mapping, such as {use_reentrant: false}.")
    plain = (str, int, float, bool, type(None))
    if not all(isinstance(key, str) and isinstance(part, plain) for key, part in value.items()):
        return {str(key)[:80]: shown(part) for key, part in value.items()} if len(value) <= 100 else {}
    return dict(value)


_READERS = {
    "flag": _flag,
    "whole": _whole,
    "number": _number,
    "text": _text,
    "names": _names,
    "mapping": _mapping,
    "any": lambda value: value,
}
