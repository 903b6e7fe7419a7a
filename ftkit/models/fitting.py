"""A Recipe made to fit the memory there is: batch, accumulation and recomputation, learning the same.

The batch of an optimizer step stays what it was: fewer rows at a time, more passes. Of all that fits, what
is expected to be fastest is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ftkit.errors import ModelError
from ftkit.models.estimate import LEVELS, MemoryEstimate, estimate
from ftkit.recipe import LoRA, Recipe

_SPEED = {"off": 1.0, "attention": 0.97, "mlp": 0.83, "layers": 0.66}
"""Speed of a step by what the backward pass makes again, measured with the starter model on a CPU."""
_STARTING = 110
"""Tokens that take as long as getting a pass started: why larger batches are faster."""
_LEAST = 0.05
"""GB below which a saving is not worth a word."""


@dataclass(frozen=True)
class Fit:
    """What was chosen.

    Attributes
    ----------
    recipe
        The Recipe with `changes` made; the same one where nothing had to be.
    changes
        Dotted paths to values.
    estimate
        Of `recipe`.
    reason
        What was chosen and what it needs, for people.
    """

    recipe: Recipe
    changes: Mapping[str, Any]
    estimate: MemoryEstimate
    reason: str


def fit_to_memory(recipe: Recipe, *, row_tokens: int | None = None) -> Fit:
    """Change what a Recipe needs, not what it learns, until it fits the memory that is free now.

    Parameters
    ----------
    row_tokens
        Mean length of the training rows, where the data has been looked at already.

    Raises
    ------
    ModelError
        When it does not fit whatever is changed; the advice says what else would help, and by how much.
    """
    now = estimate(recipe, row_tokens=row_tokens)
    if now.verdict in ("fits", "unknown"):
        return Fit(recipe, {}, now, now.reason)
    found: list[tuple[float, Recipe, dict[str, Any], MemoryEstimate]] = []
    for changes in _ways(recipe):
        changed = recipe.replace(changes)
        answer = estimate(changed, row_tokens=row_tokens)
        if answer.verdict == "fits":
            found.append((_speed(changed, answer, row_tokens), changed, changes, answer))
    if not found:
        least = recipe.replace(([{}, *_ways(recipe)])[-1])
        raise ModelError(
            f"It does not fit into the {now.free_gb:.1f} GB that are free on {now.device.name}, whatever the "
            f"batch: {estimate(least, row_tokens=row_tokens).peak_gb:.1f} GB are needed at least.",
            advice(least, row_tokens=row_tokens) or "Take a smaller model.",
        )
    _, changed, changes, answer = max(found, key=lambda one: one[0])
    before = f"{now.peak_gb:.1f} GB" if now.peak_gb is not None else "more"
    needs = f"It needs about {answer.peak_gb:.1f} GB instead of {before}, and learns the same."
    reason = f"Chosen: {_said(changes)}. {needs}"
    return Fit(changed, changes, answer, reason)


def advice(recipe: Recipe, *, row_tokens: int | None = None) -> str:
    """What would help where memory is short, in order of effect; empty where it cannot be told."""
    found = savings(recipe, row_tokens=row_tokens)
    return f"In order of effect: {' '.join(found)} or take a smaller model." if found else ""


def savings(recipe: Recipe, *, row_tokens: int | None = None) -> list[str]:
    """What would lower the memory of a Recipe, each with what it is expected to save, most first."""
    now = estimate(recipe, row_tokens=row_tokens)
    if now.peak_gb is None:
        return []
    found = []
    for changes, tokens in _wishes(recipe, row_tokens):
        after = estimate(recipe.replace(changes), row_tokens=tokens).peak_gb
        saved = 0.0 if after is None else now.peak_gb - after
        if saved >= _LEAST:
            found.append((saved, f"{_said(changes)} saves about {saved:.1f} GB;"))
    return [text for _, text in sorted(found, reverse=True)]


def _said(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} {value}" for path, value in changes.items())


def _ways(recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Changes that leave alone what is learned, the thriftiest last."""
    training = recipe.training
    whole = training.batch_size * training.gradient_accumulation_steps
    sizes = [size for size in range(training.batch_size, 0, -1) if whole % size == 0]
    asked = recipe.compute.gradient_checkpointing
    more = [] if asked == "auto" else LEVELS[LEVELS.index(asked) + 1 :]  # `auto` chooses by itself
    levels = [None, *more]
    for size in [training.batch_size] if training.batch_tokens else sizes:
        for level in levels:
            changes: dict[str, Any] = {}
            if size != training.batch_size:
                changes["training.batch_size"] = size
                changes["training.gradient_accumulation_steps"] = whole // size
            if level is not None:
                changes["compute.gradient_checkpointing"] = level
            if changes:
                yield changes


def _wishes(recipe: Recipe, row_tokens: int | None) -> Iterator[tuple[dict[str, Any], int | None]]:
    """Changes worth a word, with the row length that they lead to."""
    training = recipe.training
    if training.batch_size > 1 and training.batch_size % 2 == 0 and not training.batch_tokens:
        more = training.gradient_accumulation_steps * 2
        half = training.batch_size // 2
        yield {"training.batch_size": half, "training.gradient_accumulation_steps": more}, row_tokens
    if row_tokens and row_tokens > 64:
        yield {"data.max_length": row_tokens // 2}, row_tokens // 2
    if recipe.compute.gradient_checkpointing != "layers":
        yield {"compute.gradient_checkpointing": "layers"}, row_tokens
    if isinstance(recipe.method, LoRA) and recipe.method.rank > 1:
        yield {"method.rank": max(1, recipe.method.rank // 2)}, row_tokens
    if recipe.compute.dtype == "float32":
        yield {"compute.dtype": "bfloat16"}, row_tokens
    if recipe.method.type == "full":
        yield {"method": "lora"}, row_tokens


def _speed(recipe: Recipe, answer: MemoryEstimate, row_tokens: int | None) -> float:
    """How fast it is expected to be, beside the others."""
    tokens = recipe.training.batch_tokens or recipe.training.batch_size * (row_tokens or 1)
    return _SPEED[answer.recompute] * tokens / (tokens + _STARTING)
