"""The table of LLaMA-Factory's keys, read from `keys.yaml`."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).with_name("keys.yaml")
_NAMES = {"not": "not_here"}


@dataclass(frozen=True)
class Key:
    """One key of a LLaMA-Factory file; the head of `keys.yaml` explains the fields.

    Attributes
    ----------
    name, group
        What it is called there, and to which arguments it belongs.
    """

    name: str
    group: str
    type: str
    default: Any = None
    to: str | None = None
    values: Mapping[Any, Any] = field(default_factory=dict)
    rule: str | None = None
    does: str | None = None
    when: tuple[Any, ...] = ()
    not_here: str | None = None
    idle: tuple[Any, ...] = ()
    choices: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    needed: bool = False
    fill: bool = False
    chat: str | None = None
    secret: bool = False

    def asks_for_nothing(self, value: Any) -> bool:
        """Whether a value leaves everything as it is without the key."""
        return value is None or value is False or any(same(value, one) for one in self.idle)


def same(value: Any, other: Any) -> bool:
    """Equal, and of one kind: 1 is not True."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


@functools.cache
def table() -> Mapping[str, Key]:
    """Every key by its name."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    groups = yaml.load(_FILE.read_text(encoding="utf-8"), Loader=loader)
    keys = [_key(name, group, entry) for group, entries in groups.items() for name, entry in entries.items()]
    return {key.name: key for key in keys}


def _key(name: str, group: str, entry: Mapping[str, Any]) -> Key:
    values: dict[str, Any] = {
        _NAMES.get(part, part): tuple(value) if isinstance(value, list) else value
        for part, value in entry.items()
    }
    return Key(name=name, group=group, **values)


def looks_like(values: Mapping[Any, Any]) -> bool:
    """Whether a mapping is a LLaMA-Factory file rather than a Recipe: its keys are flat, and known there."""
    from ftkit.recipe.schema import Recipe

    return not any(key in Recipe.model_fields for key in values) and any(key in table() for key in values)


def near(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelt most like `name`, if one is."""
    return next(iter(difflib.get_close_matches(name[:100], list(known), n=1, cutoff=0.6)), None)
