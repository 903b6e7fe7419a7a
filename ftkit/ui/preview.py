"""Rows as the model will read them: the rows, the tokenizer of the model, and counts over the rows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftkit.recipe import Distillation, Model, Recipe

if TYPE_CHECKING:
    from ftkit.data import Dataset, Refusal, Template
    from ftkit.data.preflight import Finding

Progress = Callable[[str, float | None], None]
ROWS_COUNTED = 2000
"""Counting tokens stops here: a share is known well enough by then."""
FIRST_ROWS = 200
"""Rows of a large file that are shown while the others are read."""

_lock = threading.Lock()
_tokenizers: dict[Model, Any] = {}
"""The tokenizer last used: each is tens of megabytes, so only one is kept."""


@dataclass(frozen=True)
class Counts:
    """Tokens of the training rows.

    Attributes
    ----------
    rows
        Rows counted.
    of
        Rows there are.
    tokens, trained
        Of the rows counted.
    longest
        Tokens of the longest.
    too_long
        Rows above `max_length`.
    refused
        Rows counted that cannot be learned, with the reason.
    max_length
        The Recipe's cut-off.
    lengths
        Tokens of each row counted.
    findings
        What pre-flight says of the rows counted.
    batch_tokens, efficiency
        The Recipe's token budget, and the share of the batches' token places that hold a token.
    padding
        The share that padding would take, were the rows padded.
    """

    rows: int
    of: int
    tokens: int
    trained: int
    longest: int
    too_long: int
    refused: tuple[Refusal, ...]
    max_length: int
    lengths: tuple[int, ...] = ()
    findings: tuple[Finding, ...] = ()
    batch_tokens: int | None = None
    efficiency: float = 1.0
    padding: float = 0.0

    @property
    def mean(self) -> int:
        """Mean length of a row, rounded up."""
        return -(-self.tokens // self.rows) if self.rows else 0


def read(recipe: Recipe, progress: Progress, first_rows: Callable[[Dataset], Any]) -> Dataset:
    """The rows that a Recipe names; of a large file `first_rows` gets some before all are read."""
    from ftkit import data
    from ftkit.data.sources import is_large

    offline, section = recipe.compute.offline, recipe.data
    if is_large(section.source) and (section.max_rows or FIRST_ROWS + 1) > FIRST_ROWS:
        first = data.load(section.head(FIRST_ROWS), offline=offline, progress=progress)
        progress(f"Reading {section.source}", None)  # ends here where others are asked for by now
        first_rows(first)
    return data.load(section, offline=offline, progress=progress)


def template(recipe: Recipe, *, fetch: bool, progress: Progress | None = None) -> Template:
    """The chat template of the Recipe's model, by its tokenizer alone.

    Parameters
    ----------
    recipe
        Which model.
    fetch
        Whether the model may be fetched where it is not on this machine.
    progress
        Told what happens; may raise to cancel.

    Raises
    ------
    ModelError
        Where the model cannot be had.
    """
    from ftkit.data import Template
    from ftkit.models import load_tokenizer

    with _lock:
        if recipe.model not in _tokenizers:
            offline = recipe.compute.offline or not fetch
            found = load_tokenizer(recipe.model, offline=offline, progress=progress)
            _tokenizers.clear()
            _tokenizers[recipe.model] = found
        return Template(
            _tokenizers[recipe.model],
            system_prompt=recipe.data.system_prompt,
            template=recipe.data.template,
        )


def count(dataset: Dataset, chat: Template, recipe: Recipe, progress: Progress) -> Counts:
    """Count the tokens that training would see, and look for faults, over at most `ROWS_COUNTED` rows."""
    from ftkit.data.batching import Batches
    from ftkit.data.encode import encode_each
    from ftkit.data.preflight import preflight

    some = dataset.train[:ROWS_COUNTED]
    found = encode_each(some, chat, recipe.objective, progress)
    lengths = tuple(found.lengths.tolist())
    limit = recipe.data.max_length
    kept = [length for length in lengths if length <= limit]
    packed, padded = (Batches.of(kept, recipe.training, padded=padded) for padded in (False, True))
    return Counts(
        rows=len(some),
        of=len(dataset.train),
        tokens=found.tokens,
        trained=found.trained_tokens,
        longest=max(lengths, default=0),
        too_long=sum(length > limit for length in lengths),
        refused=found.refused,
        max_length=limit,
        lengths=lengths,
        findings=(
            *_of_teacher(recipe, chat),
            *preflight(
                some,
                dataset.held_out,
                found.rows,
                ends=chat.end_ids(),
                untrained=found.untrained,
                trained=recipe.objective.reads != "prompts",
                progress=progress,
            ),
        ),
        batch_tokens=recipe.training.batch_tokens,
        efficiency=packed.efficiency,
        padding=1 - padded.efficiency,
    )


def _of_teacher(recipe: Recipe, chat: Template) -> list[Finding]:
    """What is wrong with the teacher of a distillation, as far as this machine has its tokenizer."""
    from ftkit.data.preflight import Finding
    from ftkit.errors import ModelError
    from ftkit.models import load_tokenizer, on_this_machine
    from ftkit.models.teacher import NONE_NAMED, teacher_of, vocabulary_fault

    if not isinstance(recipe.objective, Distillation):
        return []
    teacher = teacher_of(recipe)
    if teacher is None:
        return [Finding("error", "No teacher", NONE_NAMED)]
    if not on_this_machine(teacher):
        return []
    try:
        other = load_tokenizer(teacher, offline=True)
    except ModelError as error:
        return [Finding("error", "The teacher cannot be read", str(error))]
    fault = vocabulary_fault(chat.tokenizer, other, recipe.model.source, teacher.source)
    return [Finding("error", "The teacher has another vocabulary", str(fault))] if fault else []
