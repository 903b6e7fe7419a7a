"""Rewards for replies: ready ones, functions of a notebook, reward models; and what is wrong with one.

A reward function takes lists and gives one number for each reply. It is called with those of these that it
names: `prompts` (conversations as lists of messages), `completions` (the replies as texts), `answer` (the
replies that the rows hold), `row` (the rows' numbers), and every other column of the rows.

    def short(completions):
        return [-len(text) / 100 for text in completions]

    ftkit.start(recipe, rewards=[short])

The Recipe keeps the function's name. A process that does not have the function says so before training.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftkit.errors import RunError

if TYPE_CHECKING:
    from ftkit.recipe import Recipe

RewardFunction = Callable[..., Sequence[float]]
_known: dict[str, RewardFunction] = {}


def register(function: RewardFunction, name: str = "") -> str:
    """Make a function known in this process, by its own name where no other is given; returns the name.

    Raises
    ------
    RunError
        When the name is that of a ready reward, or there is none.
    """
    name = name or getattr(function, "__name__", "")
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise RunError(
            f"The reward function {function!r:.80} has no name of its own.",
            "Define it with def, or give one: ftkit.train.rewards.register(function, 'name').",
        )
    if name in _READY:
        raise RunError(f"{name!r} is the name of a ready reward.", "Give the function another name.")
    _known[name] = function
    return name


def with_functions(recipe: Recipe, functions: Sequence[RewardFunction]) -> Recipe:
    """The Recipe with functions of this process added to its rewards.

    Raises
    ------
    RunError
        When its objective takes no rewards.
    """
    if not functions:
        return recipe
    if recipe.objective.reads != "prompts":
        raise RunError(
            f"Objective {recipe.objective.type!r} takes no reward functions.", "Choose 'grpo' or 'rloo'."
        )
    named = [*getattr(recipe.objective, "rewards", ()), *map(register, functions)]
    return recipe.replace({"objective.rewards": tuple(dict.fromkeys(named))})


def resolve(names: Sequence[str]) -> dict[str, Reward]:
    """The rewards of a Recipe, by name.

    Raises
    ------
    RunError
        When there are none, or one is not known.
    """
    if not names:
        raise RunError(
            "objective.rewards is empty: there is nothing that a reply would be rewarded by.",
            f"Name ready ones ({', '.join(_READY)}), or give functions: ftkit.start(recipe, rewards=[f]).",
        )
    return {name: Reward(name, _resolved(name)) for name in names}


class Reward:
    """A reward function that is held to what it should return.

    Parameters
    ----------
    name
        As the Recipe names it.
    """

    def __init__(self, name: str, function: RewardFunction) -> None:
        self.name, self.function = name, function
        self.__name__ = name
        parameters = inspect.signature(function).parameters.values()
        self._all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
        self._takes = {one.name for one in parameters}

    def __call__(self, columns: Mapping[str, Sequence[Any]]) -> list[float]:
        """One number for each reply.

        Parameters
        ----------
        columns
            `prompts`, `completions`, `row` and the others, each as long as there are replies.

        Raises
        ------
        RunError
            When the function raises, or returns anything but one finite number for each; names the row.
        """
        count = len(columns["completions"])
        try:
            found = self._ask(columns)
        except Exception as error:
            at = self._first_that_fails(columns)
            where = f" on row {columns['row'][at]}" if at is not None else ""
            text = f"The reward function {self.name!r} failed{where}: {type(error).__name__}: {error}"
            raise RunError(text, _shown(columns, at)) from error
        if isinstance(found, (str, bytes)) or not hasattr(found, "__len__") or len(found) != count:
            got = f"{len(found)} values" if hasattr(found, "__len__") else f"{type(found).__name__}"
            rows = f"rows {columns['row'][0]} to {columns['row'][-1]}"
            raise RunError(
                f"The reward function {self.name!r} returned {got} for {count} replies ({rows}).",
                "It must return a list with one number for each of `completions`.",
            )
        for place, value in enumerate(found):
            if not _is_number(value):
                row = columns["row"][place]
                raise RunError(
                    f"The reward function {self.name!r} returned {value!r:.40} for row {row}.",
                    f"It must return a finite number. {_shown(columns, place)}",
                )
        return [float(value) for value in found]

    def _ask(self, columns: Mapping[str, Sequence[Any]]) -> Any:
        return self.function(
            **{name: list(values) for name, values in columns.items() if self._all or name in self._takes}
        )

    def _first_that_fails(self, columns: Mapping[str, Sequence[Any]]) -> int | None:
        """The reply that the function fails on by itself, if there is one."""
        for place in range(len(columns["completions"])):
            try:
                self._ask({name: values[place : place + 1] for name, values in columns.items()})
            except Exception:  # noqa: BLE001  whatever it raises: that is what is looked for
                return place
        return None


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, str) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _shown(columns: Mapping[str, Sequence[Any]], place: int | None) -> str:
    return "" if place is None else f"The reply was: {columns['completions'][place]!r:.200}"


def is_json(completions: Sequence[str]) -> list[float]:
    """1 where the reply is a JSON object or list and nothing else, else 0."""
    return [float(_parses(text)) for text in completions]


def _parses(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (dict, list))
    except (ValueError, RecursionError):
        return False


def exact_match(completions: Sequence[str], answer: Sequence[str]) -> list[float]:
    """1 where the reply is the row's own, space at the ends aside, else 0."""
    return [float(text.strip() == wanted.strip()) for text, wanted in zip(completions, answer, strict=True)]


def _length(limit: str) -> RewardFunction:
    most = int(limit)

    def length(completions: Sequence[str]) -> list[float]:
        return [min(0.0, 1 - len(text) / most) for text in completions]

    return length


def _regex(pattern: str) -> RewardFunction:
    compiled = re.compile(pattern, re.DOTALL)

    def regex(completions: Sequence[str]) -> list[float]:
        return [float(compiled.search(text) is not None) for text in completions]

    return regex


def _model(folder: str) -> RewardFunction:
    from ftkit.data import Conversation, Message
    from ftkit.models.scorer import load_scorer

    scorer = load_scorer(folder)

    def model(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        return scorer.score(
            [
                Conversation(
                    (*(Message(m["role"], m["content"]) for m in prompt), Message("assistant", text))
                )
                for prompt, text in zip(prompts, completions, strict=True)
            ]
        )

    return model


_READY = ("json", "exact_match", "length", "regex", "model")
_MADE: dict[str, Callable[[str], RewardFunction]] = {"length": _length, "regex": _regex, "model": _model}


def _resolved(name: str) -> RewardFunction:
    kind, _, setting = name.partition(":")
    plain: dict[str, RewardFunction] = {"json": is_json, "exact_match": exact_match}
    if name in plain:
        return plain[name]
    if kind in _MADE and setting:
        try:
            return _MADE[kind](setting)
        except (ValueError, ZeroDivisionError, re.error) as error:
            raise RunError(
                f"The reward {name!r} cannot be made: {error}", "Change objective.rewards."
            ) from None
    if name in _known:
        return _known[name]
    raise RunError(
        f"The reward function {name!r} is not known in this process.",
        "Define it and start with ftkit.start(recipe, rewards=[function]), in a thread of the same kernel "
        f"(compute.launch); ready rewards are {', '.join(_READY)} (such as length:200 or regex:PATTERN).",
    )
