"""What the events of a run add up to: its state, its progress, its error, its curves, its notes.

Of a run of any length a summary takes the same memory. It is folded from events one by one, and can be saved
and loaded in between.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from ftkit.runs.curves import Curve

NOTES_KEPT = 200
SAMPLES_KEPT = 60
LONGEST_SAMPLE = 2_000
"""Characters of a sample's prompt or reply that are kept to be shown; the log has them whole."""

TRAIN_CURVES = (
    "loss",
    "accuracy",
    "margin",
    "pair_accuracy",
    "reward",
    "learning_rate",
    "grad_norm",
    "memory_gb",
    "gpu_memory_gb",
    "tokens_per_second",
)
"""Curves of `train` events, by the event's field."""
EVAL_CURVES = {
    "eval_loss": "loss",
    "eval_accuracy": "accuracy",
    "eval_margin": "margin",
    "eval_pair_accuracy": "pair_accuracy",
    "eval_reward": "reward",
}
"""Curves of `eval` events and the event's field."""


@dataclass(frozen=True)
class RunFailure:
    """Why a run failed and what to do about it."""

    message: str
    advice: str
    traceback: str


@dataclass(frozen=True)
class Note:
    """A remark that a run left: `level` is `info`, `warning` or `error`."""

    level: str
    text: str


@dataclass(frozen=True)
class Sample:
    """A reply of the model while it trained: to a sample prompt, or one that was rewarded."""

    step: int
    prompt: str
    reply: str
    rewards: str = ""


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `fraction` is of the current stage, None where unknown; times in seconds."""

    stage: str = ""
    fraction: float | None = None
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    tokens_per_second: float = 0.0
    elapsed: float = 0.0
    remaining: float | None = None


def _curves() -> dict[str, Curve]:
    return {name: Curve() for name in (*TRAIN_CURVES, *EVAL_CURVES)}


@dataclass
class Summary:
    """Folds events one by one. An event that lacks what its kind should have is left out."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)

    state: str = "queued"
    detail: str | None = None
    error: RunFailure | None = None
    started: float | None = None
    stage: str = ""
    fraction: float | None = None
    step: int = 0
    total_steps: int = 0
    first_step: int = 0
    epoch: float = 0.0
    tokens_per_second: float = 0.0
    elapsed: float = 0.0
    eval_seconds: float = 0.0
    spent_before: float = 0.0
    final_loss: float | None = None
    eval_loss: float | None = None
    peak_memory_gb: float | None = None
    peak_gpu_memory_gb: float | None = None
    branch_of: str | None = None
    branch_step: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    notes: deque[Note] = field(default_factory=lambda: deque(maxlen=NOTES_KEPT))
    notes_left: int = 0
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES_KEPT))
    samples_left: int = 0
    curves: dict[str, Curve] = field(default_factory=_curves)

    def fold(self, event: dict[str, Any]) -> None:
        """Take in the next event."""
        handler = _HANDLERS.get(event["kind"])
        try:
            if self.started is None:
                self.started = _number(event.get("time"))
            if handler is not None:
                handler(self, event)
        except (KeyError, TypeError, ValueError, OverflowError):
            return  # damaged, or written by something else: the events around it count

    def progress(self) -> Progress:
        """Where the run stands now."""
        done = self.step - self.first_step
        left = self.total_steps - self.step
        spent = self.elapsed + self.eval_seconds
        return Progress(
            stage=self.stage,
            fraction=self.step / self.total_steps if self.total_steps else self.fraction,
            step=self.step,
            total_steps=self.total_steps,
            epoch=self.epoch,
            tokens_per_second=self.tokens_per_second,
            elapsed=spent,
            remaining=left * (spent - self.spent_before) / done if done > 0 else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The summary as values that JSON holds: `from_json` makes it again."""
        plain = {
            name: value for name, value in self.__dict__.items() if name not in ("notes", "samples", "curves")
        }
        return plain | {
            "error": asdict(self.error) if self.error else None,
            "notes": [asdict(note) for note in tuple(self.notes)],
            "samples": [asdict(sample) for sample in tuple(self.samples)],
            "curves": {name: curve.to_json() for name, curve in self.curves.items()},
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Summary:
        """The summary that `to_json` gave.

        Raises
        ------
        ValueError, TypeError, KeyError
            When it is not one.
        """
        curves = {name: Curve.from_json(saved["curves"][name]) for name in _curves()}
        made = _checker().validate_python(saved | {"curves": curves}, strict=False)
        made.notes = deque(made.notes, maxlen=NOTES_KEPT)
        made.samples = deque(made.samples, maxlen=SAMPLES_KEPT)
        return made

    def _on_state(self, event: dict[str, Any]) -> None:
        error, detail = event.get("error"), event.get("detail")
        failure = (
            RunFailure(*(str(error[key]) for key in ("message", "advice", "traceback"))) if error else None
        )
        self.state, self.detail = str(event["state"]), None if detail is None else str(detail)
        self.error = failure

    def _on_branch(self, event: dict[str, Any]) -> None:
        self.branch_of, self.branch_step = str(event["of"]), int(event["step"])

    def _on_stage(self, event: dict[str, Any]) -> None:
        self.stage, self.fraction = str(event["text"]), _number(event["fraction"])

    def _on_plan(self, event: dict[str, Any]) -> None:
        self.plan = event

    def _on_environment(self, event: dict[str, Any]) -> None:
        self.facts = dict(event["facts"])

    def _on_note(self, event: dict[str, Any]) -> None:
        self.notes.append(Note(str(event.get("level", "info")), str(event["text"])))
        self.notes_left += 1

    def _on_sample(self, event: dict[str, Any]) -> None:
        rewards = event.get("rewards") or {}
        texts = (str(event[name])[:LONGEST_SAMPLE] for name in ("prompt", "reply"))
        shown = ", ".join(
            f"{name} {value:.3g}" for name, value in dict(rewards).items() if _number(value) is not None
        )
        prompt, reply = texts
        self.samples.append(Sample(int(event["step"]), prompt, reply, shown))
        self.samples_left += 1

    def _on_steps(self, event: dict[str, Any]) -> None:
        """Training starts, or starts again from a checkpoint: what came after that step did not happen."""
        step, total = int(event["step"]), int(event["total_steps"])
        self.first_step = self.step = step
        self.total_steps = total
        self.elapsed = _number(event.get("elapsed")) or 0.0
        self.spent_before = self.elapsed + self.eval_seconds
        self.tokens_per_second = 0.0
        for curve in self.curves.values():
            curve.cut(float(step))

    def _on_train(self, event: dict[str, Any]) -> None:
        step = int(event["step"])
        self.step, self.epoch = step, _number(event.get("epoch")) or 0.0
        self.final_loss = _number(event.get("loss"))
        self.tokens_per_second = _number(event.get("tokens_per_second")) or 0.0
        self.elapsed = _number(event.get("elapsed")) or 0.0
        self.peak_memory_gb = _highest(self.peak_memory_gb, event.get("memory_gb"))
        self.peak_gpu_memory_gb = _highest(self.peak_gpu_memory_gb, event.get("gpu_memory_gb"))
        for name in TRAIN_CURVES:
            value = _number(event.get(name))
            if value is not None:
                self.curves[name].append(step, value)

    def _on_eval(self, event: dict[str, Any]) -> None:
        step = int(event["step"])
        self.eval_loss = _number(event.get("loss"))
        self.eval_seconds += _number(event.get("seconds")) or 0.0
        for curve, name in EVAL_CURVES.items():
            value = _number(event.get(name))
            if value is not None:
                self.curves[curve].append(step, value)


_HANDLERS = {
    "state": Summary._on_state,
    "branch": Summary._on_branch,
    "stage": Summary._on_stage,
    "plan": Summary._on_plan,
    "environment": Summary._on_environment,
    "note": Summary._on_note,
    "sample": Summary._on_sample,
    "rollout": Summary._on_sample,
    "steps": Summary._on_steps,
    "train": Summary._on_train,
    "eval": Summary._on_eval,
}


@cache
def _checker() -> TypeAdapter[Summary]:
    """A saved summary comes from a file: what is in it has the types it should have, or is refused."""
    return TypeAdapter(Summary)


def _number(value: Any) -> float | None:
    """A finite number as a float, None for all else. Called a dozen times an event."""
    kind = type(value)
    if kind is float:
        return value if math.isfinite(value) else None
    return float(value) if kind is int else None


def _highest(old: float | None, new: Any) -> float | None:
    number = _number(new)
    if number is None:
        return old
    return number if old is None else max(old, number)
