"""What the events of a run add up to: its state, its progress, its error, its metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunFailure:
    """Why a run failed and what to do about it."""

    message: str
    advice: str
    traceback: str


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


METRICS = (
    "step",
    "epoch",
    "loss",
    "eval_loss",
    "accuracy",
    "eval_accuracy",
    "entropy",
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
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "memory_gb",
    "gpu_memory_gb",
    "elapsed",
)


@dataclass
class Summary:
    """Folds events one by one; `seen` is the number of the next event to fold."""

    seen: int = 0
    state: str = "queued"
    detail: str | None = None
    error: RunFailure | None = None
    stage: str = ""
    fraction: float | None = None
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    last_train: dict[str, Any] = field(default_factory=dict)
    first_step: int = 0
    eval_seconds: float = 0.0
    final_loss: float | None = None
    eval_loss: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    _rows: dict[int, dict[str, Any]] = field(default_factory=dict)

    def fold(self, event: dict[str, Any]) -> None:
        """Take in the event numbered `seen`."""
        self.seen += 1
        handler = getattr(self, f"_on_{event['kind']}", None)
        if handler is not None:
            handler(event)

    def progress(self) -> Progress:
        """Where the run stands now."""
        train = self.last_train
        done = self.step - self.first_step
        elapsed = train.get("elapsed") or 0.0
        left = self.total_steps - self.step
        spent = elapsed + self.eval_seconds
        return Progress(
            stage=self.stage,
            fraction=self.step / self.total_steps if self.total_steps else self.fraction,
            step=self.step,
            total_steps=self.total_steps,
            epoch=self.epoch,
            tokens_per_second=train.get("tokens_per_second") or 0.0,
            elapsed=spent,
            remaining=left * spent / done if done > 0 else None,
        )

    def metrics(self) -> pd.DataFrame:
        """One row a step, NaN where a value was not logged."""
        import pandas as pd

        frame = pd.DataFrame([self._rows[step] for step in sorted(self._rows)], columns=list(METRICS))
        return frame.astype({name: "int64" if name == "step" else "float64" for name in METRICS})

    def _on_state(self, event: dict[str, Any]) -> None:
        self.state = event["state"]
        self.detail = event.get("detail")
        error = event.get("error")
        self.error = RunFailure(**error) if error else None

    def _on_stage(self, event: dict[str, Any]) -> None:
        self.stage, self.fraction = event["text"], event["fraction"]

    def _on_steps(self, event: dict[str, Any]) -> None:
        """Training starts, or starts again from a checkpoint: what came after that step did not happen."""
        self.first_step = self.step = event["step"]
        self.total_steps = event["total_steps"]
        self.eval_seconds = 0.0
        self.last_train = {}
        self._rows = {step: row for step, row in self._rows.items() if step <= self.step}

    def _on_train(self, event: dict[str, Any]) -> None:
        self.step, self.epoch, self.final_loss = event["step"], event["epoch"], event["loss"]
        self.last_train = event
        self._row(event["step"]).update({name: event[name] for name in METRICS if name in event})

    def _on_eval(self, event: dict[str, Any]) -> None:
        self.eval_loss = event["loss"]
        self.eval_seconds += event["seconds"]
        told = {f"eval_{name}": value for name, value in event.items() if f"eval_{name}" in METRICS}
        self._row(event["step"]).update(told, epoch=event["epoch"])

    def _on_environment(self, event: dict[str, Any]) -> None:
        self.facts = event["facts"]

    def _row(self, step: int) -> dict[str, Any]:
        return self._rows.setdefault(step, {"step": step})
