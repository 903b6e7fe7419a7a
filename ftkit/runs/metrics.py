"""A run's metrics as a table, read from its events when asked for."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

METRICS = (
    "step",
    "epoch",
    "loss",
    "eval_loss",
    "accuracy",
    "eval_accuracy",
    "entropy",
    "divergence",
    "eval_divergence",
    "margin",
    "eval_margin",
    "pair_accuracy",
    "eval_pair_accuracy",
    "chosen_reward",
    "rejected_reward",
    "chosen_logprob",
    "eval_chosen_logprob",
    "rejected_logprob",
    "eval_rejected_logprob",
    "kl",
    "reward",
    "eval_reward",
    "reward_std",
    "reply_tokens",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "memory_gb",
    "gpu_memory_gb",
    "elapsed",
)
_OF_EVAL = tuple(name for name in METRICS if name.startswith("eval_"))
_OF_TRAIN = tuple(name for name in METRICS if name != "step" and not name.startswith("eval_"))


def table(events: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a step, NaN where a value was not logged."""
    import pandas as pd

    rows = _Rows()
    for event in events:
        try:
            rows.take(event)
        except (KeyError, TypeError, ValueError, OverflowError):
            continue  # as in a Summary: damaged, or written by something else
    return pd.DataFrame({name: rows.columns[name] for name in METRICS}).astype({"step": "int64"})


class _Rows:
    """Columns of numbers, in order of the steps: eight bytes a value rather than a dictionary a row."""

    def __init__(self) -> None:
        self.columns = {name: array("d") for name in METRICS}
        self._steps = self.columns["step"]

    def take(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "train":
            row = self._row(int(event["step"]))
            for name in _OF_TRAIN:
                self._set(name, row, event.get(name))
        elif kind == "eval":
            row = self._row(int(event["step"]))
            for name in _OF_EVAL:
                self._set(name, row, event.get(name.removeprefix("eval_")))
            self._set("epoch", row, event.get("epoch"))
        elif kind == "steps":  # training starts, or starts again: what came after that step did not happen
            kept = bisect_left(self._steps, int(event["step"]) + 1)
            for column in self.columns.values():
                del column[kept:]

    def _row(self, step: int) -> int:
        """The row of `step`, made if it is not there."""
        at = bisect_left(self._steps, step)
        if at == len(self._steps) or self._steps[at] != step:
            for column in self.columns.values():
                column.insert(at, math.nan)
            self._steps[at] = step
        return at

    def _set(self, name: str, row: int, value: Any) -> None:
        if type(value) is float or type(value) is int:
            self.columns[name][row] = value
