"""Rows as the model will read them: the tokenizer of the Recipe's model, and counts over the rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftkit.recipe import Model, Recipe

if TYPE_CHECKING:
    from ftkit.data import Example, Template

Progress = Callable[[str, float | None], None]
ROWS_COUNTED = 2000
"""Counting tokens stops here: a share is known well enough by then."""

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
    too_long, untrained
        Rows above `max_length`; rows without a trained token.
    max_length
        The Recipe's cut-off.
    """

    rows: int
    of: int
    tokens: int
    trained: int
    longest: int
    too_long: int
    untrained: int
    max_length: int

    @property
    def mean(self) -> int:
        """Mean length of a row, rounded up."""
        return -(-self.tokens // self.rows) if self.rows else 0


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


def count(examples: Sequence[Example], chat: Template, recipe: Recipe, progress: Progress) -> Counts:
    """Count the tokens that training would see, over at most `ROWS_COUNTED` rows."""
    from ftkit.data import encode
    from ftkit.data.example import UnusableRowError

    tokens = trained = longest = too_long = untrained = 0
    some = examples[:ROWS_COUNTED]
    for place, example in enumerate(some):
        if place % 64 == 0:
            progress("Counting tokens", place / len(some))
        try:
            encoded = encode(example, chat, recipe.objective)
        except UnusableRowError:
            untrained += 1
            continue
        size = len(encoded.ids)
        longest = max(longest, size)
        too_long += size > recipe.data.max_length
        untrained += not encoded.mask[1:].any()
        tokens += size
        trained += int(encoded.mask.sum())
    return Counts(
        len(some), len(examples), tokens, trained, longest, too_long, untrained, recipe.data.max_length
    )
