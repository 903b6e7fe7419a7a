"""The model as it was when training began: by switching the adapter off, or as it said once before training.

A second copy of the weights is never held. Where the model without its adapter is the one that training
began from, it is asked during training. Where it is not (full fine-tuning, an adapter that was trained
before or whose first values are cut out of the weights), all rows are passed through the model once before
training, and what it says of each trained token is kept in the run folder.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftkit.data.batching import Batches
from ftkit.data.encoded import Encoded
from ftkit.data.token_store import lengths
from ftkit.fast.distributions import RowLosses, beside
from ftkit.fast.logprobs import LogProbs, rewards
from ftkit.fast.loss import NOTHING, Extra, Scores
from ftkit.models.adapters import base_model
from ftkit.models.load import LoadedModel
from ftkit.train.teacher import Teacher

FILE = "reference.safetensors"
_SAME = 1e-3
"""Nats a token by which a model with a fresh adapter and without it may differ and be taken for the same."""
_TRIAL_TOKENS = 64
Progress = Callable[[str, float | None], None]
Batch = dict[str, Any]
Lay = Callable[[Sequence[Encoded]], Batch]


class Remembered:
    """What the reference says of every trained token of some rows.

    Parameters
    ----------
    values
        (trained tokens,) float32 log-probabilities, row after row.
    ends
        (rows,) where in them each row ends.
    """

    def __init__(self, values: np.ndarray, ends: np.ndarray) -> None:
        self.values, self.ends = values, ends

    def rows(self, first: int, after: int) -> np.ndarray:
        """Of the rows from `first` up to `after`."""
        return self.values[self.ends[first - 1] if first else 0 : self.ends[after - 1]]


class ModelPasses:
    """The passes that objectives ask for, by the model that is trained."""

    def __init__(self, loaded: LoadedModel, logprobs: LogProbs, teacher: Teacher | None = None) -> None:
        self.loaded, self.logprobs, self.teacher = loaded, logprobs, teacher

    def policy(self, batch: Batch, extra: Extra = NOTHING) -> Scores:
        """By the model as it is."""
        return self.logprobs.scores(self.loaded.model, batch, extra)

    def policy_only_read(self, batch: Batch) -> torch.Tensor:
        """The same without gradients."""
        with torch.no_grad(), _reading(self.loaded.model):
            return self.logprobs(self.loaded.model, batch)

    def rewards(self, batch: Batch) -> torch.Tensor:
        """One score for each row."""
        return rewards(self.loaded.model, batch)

    def reference(self, batch: Batch) -> torch.Tensor:
        """What the batch brings with it, or what the model says without its adapter."""
        if "reference" in batch:
            known: torch.Tensor = batch["reference"]
            return known
        with torch.no_grad(), _reading(self.loaded.model), base_model(self.loaded) as model:
            return self.logprobs(model, batch)

    def beside_teacher(self, batch: Batch, losses: RowLosses) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """By the model as it is and by the teacher, a slice of both at a time."""
        assert self.teacher is not None
        known = self.teacher.outputs(batch)
        own, targets = self.logprobs.outputs(self.loaded.model, batch)
        return beside(own, known, targets, losses)


def is_the_base(loaded: LoadedModel, logprobs: LogProbs, row: Encoded, lay: Lay) -> bool:
    """Whether the model without its adapter says what it says with it: then it is the reference.

    Asked before the first step, of the start of a row.
    """
    if loaded.method == "full" or not hasattr(loaded.model, "disable_adapter"):
        return False
    few = Encoded(row.ids[:_TRIAL_TOKENS], np.ones(min(len(row.ids), _TRIAL_TOKENS), bool), row.row)
    batch = _on(lay([few]), loaded)
    passes = ModelPasses(loaded, logprobs)
    difference = (passes.policy_only_read(batch) - passes.reference(batch)).abs().max()
    return bool(difference <= _SAME)


def remember(
    loaded: LoadedModel,
    logprobs: LogProbs,
    parts: Mapping[str, Sequence[Encoded]],
    lay: Lay,
    *,
    batch_tokens: int,
    file: Path,
    progress: Progress,
) -> dict[str, Remembered]:
    """Pass all rows through the model as it is now, before training; or read what was kept of the same rows.

    Parameters
    ----------
    batch_tokens
        Tokens of a pass.
    file
        Where it is kept: a resumed run reads it rather than asking a model that has moved on.
    progress
        Told how far it is; may raise to end it.
    """
    ends = {name: _trained(rows) for name, rows in parts.items()}
    digest = _digest(parts)
    values = _read(file, digest, ends)
    if values is None:
        values = {}
        for name, rows in parts.items():
            values[name] = _all(loaded, logprobs, rows, ends[name], lay, batch_tokens, progress)
        _write(file, digest, values)
    return {name: Remembered(values[name], ends[name]) for name in parts}


def _all(
    loaded: LoadedModel,
    logprobs: LogProbs,
    rows: Sequence[Encoded],
    ends: np.ndarray,
    lay: Lay,
    batch_tokens: int,
    progress: Progress,
) -> np.ndarray:
    made = np.empty(int(ends[-1]) if len(ends) else 0, np.float32)
    batches = Batches(lengths(rows), batch_tokens=batch_tokens, padded=not logprobs.packed, seed=None)
    passes, done = ModelPasses(loaded, logprobs), 0
    for places in batches:
        progress("Asking the model what it says before training", done / max(len(rows), 1))
        with loaded.gate.turn("reference"):
            said = passes.policy_only_read(_on(lay([rows[place] for place in places]), loaded)).cpu().numpy()
        at = 0
        for place in places:
            start, end = int(ends[place - 1]) if place else 0, int(ends[place])
            made[start:end] = said[at : at + end - start]
            at += end - start
        done += len(places)
    return made


def _trained(rows: Sequence[Encoded]) -> np.ndarray:
    """(rows,) where each row ends among the trained tokens; a row's first token is never trained."""
    return np.cumsum([np.count_nonzero(row.mask[1:]) for row in rows], dtype=np.int64)


def _digest(parts: Mapping[str, Sequence[Encoded]]) -> str:
    total = 0
    for rows in parts.values():
        for row in rows:
            total = zlib.crc32(row.mask.tobytes(), zlib.crc32(row.ids.tobytes(), total))
    return f"{total:08x}"


def _read(file: Path, digest: str, ends: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """What was kept of the same rows, or None."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as stored:
            if (stored.metadata() or {}).get("rows") != digest:
                return None
            values = {name: stored.get_tensor(name) for name in ends}
    except (OSError, SafetensorError):
        return None
    whole = all(len(values[name]) == (ends[name][-1] if len(ends[name]) else 0) for name in ends)
    return values if whole else None


def _write(file: Path, digest: str, values: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}")
    save_file(values, beside, {"rows": digest})
    beside.replace(file)


def _on(batch: Batch, loaded: LoadedModel) -> Batch:
    device = next(loaded.model.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}


@contextlib.contextmanager
def _reading(model: torch.nn.Module) -> Iterator[None]:
    """Without dropout."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
