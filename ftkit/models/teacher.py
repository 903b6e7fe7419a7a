"""The teacher of a distillation: a second model with the same vocabulary and precision, only read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftkit.errors import ModelError
from ftkit.models.cache import Progress
from ftkit.models.load import LoadedModel, load_model, load_tokenizer
from ftkit.recipe import Distillation, Model, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NONE_NAMED = "objective.teacher is empty: name a larger model with the same vocabulary to learn from."
_NAMED = 3
"""Tokens that are named of those that differ."""


def teacher_of(recipe: Recipe) -> Model | None:
    """The model that a Recipe's student learns from; None where there is none, or none is chosen yet.

    Its weights are of as few bits as the student's. Python code that comes with it is never run.
    """
    objective = recipe.objective
    if not isinstance(objective, Distillation) or not objective.teacher:
        return None
    return Model(
        source=objective.teacher,
        revision=objective.teacher_revision,
        quantization=recipe.model.quantization,
    )


def check_teacher(recipe: Recipe, progress: Progress | None = None) -> None:
    """Compare the tokenizers of student and teacher, before either model is loaded.

    Raises
    ------
    ModelError
        When no teacher is named, it cannot be had, or the vocabularies differ.
    """
    teacher = teacher_of(recipe)
    if teacher is None:
        raise ModelError(NONE_NAMED, "Mostly that is a model of the same family.")
    offline = recipe.compute.offline
    own = load_tokenizer(recipe.model, offline=offline, progress=progress)
    try:
        other = load_tokenizer(teacher, offline=offline, progress=progress)
    except ModelError as error:
        raise _of_teacher(error) from error
    fault = vocabulary_fault(own, other, recipe.model.source, teacher.source)
    if fault is not None:
        raise fault


def vocabulary_fault(
    own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, student: str, teacher: str
) -> ModelError | None:
    """What is wrong with learning by one tokenizer from a model with the other: a token has two numbers."""
    words, theirs = own.get_vocab(), other.get_vocab()
    if words == theirs:
        return None
    different = sorted(word for word in words.keys() | theirs.keys() if words.get(word) != theirs.get(word))
    shown = ", ".join(
        f"{word!r:.40} is {_number(words.get(word))} and {_number(theirs.get(word))}"
        for word in different[:_NAMED]
    )
    more = f", and {len(different) - _NAMED:,} more" if len(different) > _NAMED else ""
    return ModelError(
        f"model.source {student!r:.200} and objective.teacher {teacher!r:.200} have different vocabularies, "
        f"of {len(words):,} and {len(theirs):,} tokens: {shown}{more}.",
        "A student can only learn the distribution of a teacher with its own vocabulary: choose one of the "
        "same family. Or let that model write the answers, and learn them with objective 'sft'.",
    )


def _number(found: int | None) -> str:
    return "missing" if found is None else str(found)


def load_teacher(recipe: Recipe, progress: Progress | None = None) -> LoadedModel:
    """The teacher that `check_teacher` has let pass, without gradients and without dropout.

    Raises
    ------
    ModelError
        When it cannot be had or read, or does not fit.
    """
    teacher = teacher_of(recipe)
    assert teacher is not None
    try:
        loaded = load_model(teacher, recipe.compute, progress=progress)
    except ModelError as error:
        raise _of_teacher(error) from error
    model: Any = loaded.model
    model.eval().requires_grad_(False)
    return loaded


def _of_teacher(error: ModelError) -> ModelError:
    advice = error.advice
    if "trust_remote_code" in advice:
        advice = "Code that comes with a teacher is never run: choose a teacher that needs none."
    return ModelError(f"objective.teacher: {error.message}", advice)
