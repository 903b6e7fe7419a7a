"""Events as they should be: a run folder may come from anywhere, and what it says must not break a panel.

An event out of shape counts for nothing, like a line that a crash has torn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_LARGEST = 2**53
_REQUIRED: dict[str, tuple[str, ...]] = {
    "state": ("state",),
    "stage": ("text", "fraction"),
    "steps": ("step", "total_steps"),
    "train": ("step", "epoch", "loss"),
    "eval": ("step", "epoch", "loss", "seconds"),
    "branch": ("of", "step"),
    "checkpoint": ("step",),
    "note": ("level", "text"),
    "environment": ("facts",),
    "sample": ("step", "prompt", "reply"),
    "rollout": ("step", "prompt", "reply"),
    "recipe": ("text", "sha256"),
}
_TEXTS = frozenset({"state", "text", "level", "path", "sha256", "of"})
_COUNTS = frozenset({"step", "total_steps"})
_NUMBERS = frozenset(
    (
        *("fraction", "epoch", "loss", "accuracy", "entropy", "learning_rate", "grad_norm", "tokens"),
        *("trained_tokens", "step_tokens", "step_trained_tokens", "tokens_per_second", "memory_gb"),
        *("gpu_memory_gb", "elapsed", "seconds", "time", "packing_efficiency"),
    )
)
_OBJECTS = frozenset({"facts", "longest"})
_FAILURE = ("message", "advice", "traceback")


class _OutOfShapeError(Exception):
    pass


def checked(event: Any) -> dict[str, Any] | None:
    """The event with only such values as its kind has; None where it is none."""
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return None
    kind = event["kind"]
    if any(name not in event for name in _REQUIRED.get(kind, ())):
        return None
    try:
        return {name: _value(name, value) for name, value in event.items()}
    except (_OutOfShapeError, RecursionError):
        return None


def _value(name: str, value: Any) -> Any:
    if name in _NUMBERS:
        return _number(value)
    if name in _COUNTS:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _LARGEST:
            raise _OutOfShapeError
        return value
    if name in _TEXTS:
        if not isinstance(value, str):
            raise _OutOfShapeError
        return _whole(value)
    if name == "error":
        return _failure(value)
    if name in _OBJECTS and not isinstance(value, (Mapping, type(None))):
        raise _OutOfShapeError
    return _plain(value)


def _number(value: Any) -> float | int | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _OutOfShapeError
    if not -_LARGEST < value < _LARGEST:  # NaN, too
        return None
    return value


def _failure(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _OutOfShapeError
    return {name: _whole(str(value.get(name) or "")) for name in _FAILURE}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_whole(str(name)): _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _whole(text: str) -> str:
    """Text that can be sent to a page: JSON may hold halves of characters."""
    return text if text.isascii() else text.encode(errors="replace").decode()
