"""How right an answer is. Pure functions over text: no model, no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def is_exact(expected: str, got: str) -> bool:
    """Whether both are the same text, spaces around it left out."""
    return expected.strip() == got.strip()


def as_object(text: str) -> dict[str, Any] | None:
    """`text` as a JSON object, or None when it is anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@dataclass(frozen=True)
class FieldScores:
    """How answers that should be JSON objects fare, whole and by field."""

    valid_json: float
    """Share of answers that are a JSON object."""
    fields: dict[str, float]
    """Share of rows with this field in which the answer has it with the right value."""


def field_scores(expected: Sequence[str], got: Sequence[str]) -> FieldScores | None:
    """Compare JSON answers field by field; None unless every expected answer is a JSON object."""
    wanted = [as_object(text) for text in expected]
    if not wanted or any(value is None for value in wanted):
        return None
    given = [as_object(text) for text in got]
    hits: dict[str, list[bool]] = {}
    for want, have in zip(wanted, given, strict=True):
        for name, value in (want or {}).items():
            right = have is not None and name in have and _same(have[name], value)
            hits.setdefault(name, []).append(right)
    valid = sum(value is not None for value in given) / len(given)
    return FieldScores(valid, {name: sum(found) / len(found) for name, found in hits.items()})


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 and true are not the same."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
