"""A dataset looked at whole: format, counts, lengths, findings. Behind `ftkit data inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftkit.data.batching import Batches
from ftkit.data.dataset import Dataset
from ftkit.data.encode import Encoded, encode_each
from ftkit.data.example import Refusal
from ftkit.data.preflight import Finding, preflight
from ftkit.data.template import Template
from ftkit.data.token_store import lengths as token_lengths
from ftkit.recipe import SFT, Objective, Training

ROWS_NAMED = 20
"""In plain values a finding names at most so many rows; `count` says how many there are."""


@dataclass(frozen=True)
class Inspection:
    """What there is to know about a dataset before training on it.

    Attributes
    ----------
    dataset
        The rows, their format, and those refused when they were read.
    encoded
        The training rows that can be learned, as the trainer will see them.
    refused
        All rows refused, when they were read or when they became tokens.
    findings
        See `preflight`.
    """

    dataset: Dataset
    encoded: Sequence[Encoded]
    refused: tuple[Refusal, ...]
    findings: list[Finding]

    @property
    def tokens(self) -> int:
        """Tokens of the training rows."""
        return int(token_lengths(self.encoded).sum())

    @property
    def trained_tokens(self) -> int:
        """Of these, the tokens that the loss is taken over."""
        return sum(int(row.mask.sum()) for row in self.encoded)

    def lengths(self) -> dict[str, int]:
        """Tokens a row: `p50`, `p95` and `max`."""
        if not self.encoded:
            return {"p50": 0, "p95": 0, "max": 0}
        lengths = token_lengths(self.encoded)
        p50, p95 = np.percentile(lengths, (50, 95))
        return {"p50": round(p50), "p95": round(p95), "max": int(lengths.max())}

    def batches(self, settings: Training | None = None, *, padded: bool = False) -> Batches:
        """The batches that training would make of the rows: end to end, or padded."""
        return Batches.of(token_lengths(self.encoded), settings or Training(), padded=padded)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "format": self.dataset.format,
            "reason": self.dataset.format_reason,
            "confidence": self.dataset.confidence,
            "columns": dict(self.dataset.columns),
            "rows": len(self.dataset.train) + len(self.dataset.held_out) + len(self.dataset.refused),
            "accepted": len(self.encoded),
            "held_out": len(self.dataset.held_out),
            "refused": [{"row": one.row, "reason": one.reason} for one in self.refused],
            "sources": [
                {"name": part.name, "rows": part.rows, "first": part.first, "format": part.layout.format}
                for part in self.dataset.parts
            ],
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "lengths": self.lengths(),
            "packing_efficiency": round(self.batches().efficiency, 4),
            "padding_saved": round(1 - self.batches(padded=True).efficiency, 4),
            "findings": [
                {
                    "level": one.level,
                    "title": one.title,
                    "message": one.message,
                    "rows": list(one.rows[:ROWS_NAMED]),
                    "count": one.count,
                }
                for one in self.findings
            ],
        }


def inspect(dataset: Dataset, template: Template, objective: Objective | None = None) -> Inspection:
    """Encode every training row and look at all of it; no row is cut off by its length."""
    found = encode_each(dataset.train, template, objective or SFT())
    findings = preflight(
        dataset.train,
        dataset.held_out,
        found.rows,
        ends=template.end_ids(),
        untrained=found.untrained,
        trained=objective is None or objective.reads != "prompts",
    )
    return Inspection(dataset, found.rows, (*dataset.refused, *found.refused), findings)
