"""A LLaMA-Factory file as a Recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ftkit.errors import RecipeError
from ftkit.recipe.llamafactory import checks, places, values
from ftkit.recipe.llamafactory.given import Given
from ftkit.recipe.llamafactory.report import Import, Problem
from ftkit.recipe.llamafactory.rules import RULES, Holds, Left, Outcome, Sets, Wrong
from ftkit.recipe.llamafactory.table import Key, near, same, table
from ftkit.recipe.optimizers import OPTIMIZERS
from ftkit.recipe.schema import Recipe
from ftkit.recipe.yaml import PlainLoader

LARGEST = 1_000_000
"""Characters of a file; the longest that people write have a few thousand."""


def load(path: str | Path) -> Import:
    """Read a LLaMA-Factory file, YAML or JSON.

    Raises
    ------
    RecipeError
        When it cannot be read, or is no mapping. What is wrong with its keys stands in `Import.errors`.
    """
    path = Path(path).expanduser()
    try:
        if path.stat().st_size > LARGEST:
            raise RecipeError(f"{path} is too large for a file of settings.", "Check the path.")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(f"There is no file {path}.", "Check the path.") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read: {error}", "Check the path.") from None
    return loads(text, folder=path.parent, name=str(path))


def loads(text: str, *, folder: Path | None = None, name: str = "the text") -> Import:
    """As `load`, of text; `folder` is where a relative `dataset_dir` is looked for, too."""
    settings = parse(text, name)
    if settings and all(key in Recipe.model_fields for key in settings):
        raise RecipeError(f"{name} is a Recipe of ftkit already.", "Train it: ftkit run FILE.yaml.")
    return convert(settings, folder=folder)


def parse(text: str, name: str = "the text") -> dict[Any, Any]:
    """The mapping that YAML or JSON text holds, whosever settings they are.

    Raises
    ------
    RecipeError
        When it is neither, too long, no mapping, or has a key twice.
    """
    if len(text) > LARGEST:
        raise RecipeError(f"{name} is too long for a file of settings.", "Paste the settings alone.")
    try:
        found = json.loads(text, object_pairs_hook=_once) if text.lstrip().startswith("{") else None
    except RecipeError:
        raise
    except (ValueError, RecursionError):
        found = None  # a flow mapping of YAML begins with a brace, too
    try:
        if found is None:
            found = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except RecipeError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(
            f"{name} is neither YAML nor JSON: {str(error)[:300]}", "Mend that place."
        ) from None
    if not isinstance(found, dict):
        raise RecipeError(f"{name} holds no settings.", "Write a key and a value on each line.")
    return found


def convert(settings: Mapping[Any, Any], *, folder: Path | None = None) -> Import:
    """The Recipe of a mapping of LLaMA-Factory's keys, and what became of each."""
    work = _Work()
    given = Given(work.read(settings), folder)
    if not work.problems:  # what a check compares must have been read
        work.problems += checks.problems(given)
    for name, value in settings.items():
        if name in work.readable:
            work.take(table()[name], given.values.get(name), value, given)
    work.conflicts()
    if given.kind == "train":
        work.assume(given)
    recipe = work.recipe(given) if not work.problems else None
    return Import(
        kind=given.kind,
        recipe=recipe,
        mapped=work.mapped,
        honoured=work.honoured,
        not_applicable=work.left,
        errors=tuple(work.problems),
        assumed=work.assumed if recipe is not None else {},
        settings=work.settings if given.kind in ("chat", "predict") else {},
        advice=_advice(given),
    )


@dataclass
class _Work:
    """The report as it grows."""

    readable: set[str] = field(default_factory=set)
    mapped: dict[str, str] = field(default_factory=dict)
    honoured: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)
    set_by: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)

    def read(self, settings: Mapping[Any, Any]) -> dict[str, Any]:
        """The values that are values of their keys, empty ones left out."""
        found = {}
        for name, value in settings.items():
            key = table().get(name) if isinstance(name, str) else None
            if key is None:
                self.problems.append(_unknown(values.shown(name)))
                continue
            try:
                read = values.read(value, key.type)
                _among(key, read)
            except ValueError as error:
                given = "" if key.secret else f" (given: {values.shown(value)})"
                self.problems.append(Problem((name,), f"{error}{given}"))
                continue
            self.readable.add(name)
            if read is not None and read != ():
                found[name] = read
        return found

    def take(self, key: Key, value: Any, written: Any, given: Given) -> None:
        """Put one key of the file where it belongs."""
        outcome = _outcome(key, value, given)
        if isinstance(outcome, Sets):
            for path, new in outcome.changes.items():
                self.set_by.setdefault(path, []).append((key.name, new))
            outcome = self._available(key, outcome, given)
        shown = "" if key.secret else f" (given: {values.shown(written)})"
        if isinstance(outcome, Wrong):
            self.problems.append(Problem((key.name,), f"{outcome.message}{shown}", outcome.advice))
        elif isinstance(outcome, Holds):
            self.honoured[key.name] = outcome.why
        elif isinstance(outcome, Left):
            self.left[key.name] = outcome.why
        else:
            self.changes |= outcome.changes
            self.settings |= outcome.settings
            self.mapped[key.name] = _told(outcome)

    def conflicts(self) -> None:
        """Keys that set one field to different values."""
        for path, setters in self.set_by.items():
            if any(not same(value, setters[0][1]) for _, value in setters):
                said = " and ".join(values.shown(value) for _, value in setters)
                self.problems.append(
                    Problem(
                        tuple(name for name, _ in setters), f"They say {said} of {path}.", "Keep one of them."
                    )
                )

    def assume(self, given: Given) -> None:
        """LLaMA-Factory's own values of keys that are absent, where ftkit's differ."""
        usual = Recipe()
        for key in table().values():
            if given.values.get(key.name) is not None or key.type == "flag":
                continue
            if (key.default is None and not key.fill) or not (key.to or key.rule):
                continue
            outcome = _outcome(key, key.default, given)
            if not isinstance(outcome, Sets):
                continue
            for path, value in outcome.changes.items():
                if path in self.changes or places.missing(path, given.kinds, value):
                    continue
                self.changes[path] = value
                if not same(_at(usual, path), value):
                    self.assumed[path] = f"{values.shown(value)} ({key.name})"

    def recipe(self, given: Given) -> Recipe | None:
        """The Recipe; None where its own checks refuse it, which is then among the problems."""
        nested: dict[str, Any] = {
            section: {"type": kind}
            for section, kind in given.kinds.items()
            if places.missing(f"{section}.type", {}, kind) is None
        }
        for path, value in self.changes.items():
            *sections, name = path.split(".")
            target = nested
            for section in sections:
                target = target.setdefault(section, {})
            target[name] = value
        try:
            return Recipe(**nested)
        except RecipeError as error:
            for line in error.message.splitlines():
                keys = tuple(name for path in self.named(line) for name, _ in self.set_by[path])
                self.problems.append(Problem(keys or ("recipe",), line))
            return None

    def named(self, line: str) -> list[str]:
        """Fields that were set and that a line of a Recipe's error speaks of."""
        starts = [path for path in self.set_by if line.startswith(f"{path}:")]
        whole = [path for path in self.set_by if path in line]
        section, words = line.partition(":")[0], set(re.findall(r"\w+", line))
        parts = [
            path
            for path in self.set_by
            if path.startswith(f"{section}.") and path.rsplit(".", 1)[-1] in words
        ]
        return starts or whole or parts

    def _available(self, key: Key, outcome: Sets, given: Given) -> Outcome:
        """The same, or that this version has no such field."""
        for path, value in outcome.changes.items():
            why = places.missing(path, given.kinds, value)
            if why is None:
                continue
            if value is None or value is False or key.asks_for_nothing(value):
                return Holds("off, as it is without the key")
            if key.needed and given.kind == "train":
                return Wrong(f"Not available: {why}.", "Choose another, or a later version of ftkit.")
            return Left(why)
        return outcome


def _outcome(key: Key, value: Any, given: Given) -> Outcome:
    """What becomes of a value, whether or not this version has the fields."""
    if value is None and not key.fill:
        return Holds("empty: as it is without the key")
    elsewhere = _not_read(key, given)
    if elsewhere:
        return Holds(elsewhere) if key.asks_for_nothing(value) else Left(elsewhere)
    if key.chat or key.group == "generating":
        found = _reply_setting(key, value, given)
        if found is not None:
            return found
    if key.rule:
        return RULES[key.rule](key, value, given)
    if key.to and key.values:
        return Sets({key.to: key.values[value]}) if value in key.values and value else _off()
    if key.to and any(same(value, one) for one in key.idle):
        return _off()
    if key.to:
        return Sets({key.to: value})
    if key.does and (not key.when or any(same(value, one) for one in key.when)):
        return Holds(key.does)
    if key.asks_for_nothing(value):
        return _off()
    return Left(key.not_here or f"this is always so: {key.does}")


def _reply_setting(key: Key, value: Any, given: Given) -> Outcome | None:
    """A setting of replies, in a file that makes some."""
    if key.chat is None or (key.rule and given.kind in ("chat", "predict")):
        return None
    if given.kind not in ("chat", "predict"):
        return Left(f"read where replies are made: the Chat panel, or ftkit.chat.Sampling({key.chat}=…)")
    if key.name == "temperature" and given.get("do_sample") is False:
        return Left("do_sample: false always takes the likeliest token")
    return Sets({}, f"ftkit.chat.Sampling({key.chat}={values.shown(value)})", {key.chat: value})


def _off() -> Holds:
    return Holds("off, as it is without the key")


def _not_read(key: Key, given: Given) -> str | None:
    """Why LLaMA-Factory itself does not read the key in this file; None where it does."""
    now: dict[str, tuple[str, str]] = {
        "stages": ("stage", str(given.get("stage"))),
        "methods": ("finetuning_type", given.method),
        "losses": ("pref_loss", str(given.get("pref_loss"))),
        "optimizers": ("the optimizer", given.optimizer),
        "kinds": ("", given.kind),
    }
    if key.optimizers and given.optimizer in key.optimizers and given.optimizer not in OPTIMIZERS:
        return f"the optimizer {given.optimizer} is not offered"
    for part, (name, value) in now.items():
        wanted = getattr(key, part)
        if wanted and value not in wanted and part == "kinds":
            return f"read in a file to {' or '.join(wanted)}; this one is to {value}"
        if wanted and value not in wanted:
            return f"read where {name} is {' or '.join(wanted)}; here it is {values.shown(value)}"
    return None


def _among(key: Key, value: Any) -> None:
    if key.choices and value is not None and str(value) not in map(str, key.choices):
        hint = near(str(value), map(str, key.choices))
        wanted = ", ".join(map(str, key.choices))
        raise ValueError(f"It is one of {wanted}" + (f"; did you mean {hint!r}?" if hint else "."))


def _unknown(name: str) -> Problem:
    hint = near(name, table())
    advice = f"Did you mean {hint!r}?" if hint else "Take it out, or look it up in LLaMA-Factory."
    return Problem((name,), "LLaMA-Factory has no such key.", advice)


def _told(outcome: Sets) -> str:
    parts = [f"{path}: {values.shown(value)}" for path, value in outcome.changes.items()]
    return ", ".join(parts) + (f" ({outcome.note})" if parts and outcome.note else outcome.note)


def _at(recipe: Recipe, path: str) -> Any:
    found: Any = recipe
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _advice(given: Given) -> tuple[str, ...]:
    if given.kind == "train":
        return ("Train it: ftkit run recipe.yaml, or ftkit.start(recipe).",)
    if given.kind == "chat":
        return (
            "Talk to a run of ftkit: ftkit chat runs/NAME, or ftkit.ChatSession(ftkit.attach('runs/NAME')).",
            "Or to the model: ftkit.ChatSession(ftkit.models.load_model(recipe.model, recipe.compute)).",
        )
    if given.kind == "predict":
        return ("Compare replies with what the rows say: ftkit.evaluate.exact_match.",)
    return ("An adapter of ftkit is in PEFT's own format: peft.PeftModel loads and merges it.",)


class _Loader(PlainLoader):
    """YAML without a key twice: one of the two values would be lost in silence."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen = [child.value for child, _ in node.value if isinstance(child, yaml.ScalarNode)]
    _refuse_twice(seen)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_twice([name for name, _ in pairs])
    return dict(pairs)


def _refuse_twice(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise RecipeError(f"The key {name[:80]!r} is given twice.", "Keep one of them.")
        seen.add(name)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
