"""What every Trainer of ftkit does beside its loss: checkpoints to go on from, a rate that can be changed."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ftkit.errors import RunError
from ftkit.models.adapters import save_adapter
from ftkit.models.load import LoadedModel
from ftkit.recipe import Recipe, Training
from ftkit.train import training_state
from ftkit.train.checkpoints import Checkpoints
from ftkit.train.holding import Holding
from ftkit.train.protocol import Sink
from ftkit.train.ranks import Ranks
from ftkit.train.watch import all_finite


class Steps:
    """What a Trainer of ftkit does beside its loss: sealed checkpoints, and a rate that can be changed."""

    loaded: LoadedModel
    settings: Training
    sink: Sink
    ranks: Ranks
    holding: Holding = Holding()
    counted: Counted
    checkpoints: Checkpoints
    rate_scale: float | None
    last_eval: tuple[int, float] | None
    batches: Any
    batches_a_step: int
    extras: Sequence[Any] = ()
    generators: tuple[dict[str, Any], list[Any]]
    model: Any
    optimizer: Any
    lr_scheduler: Any
    accelerator: Any
    state: TrainerState

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        self.save_checkpoint()

    def save_checkpoint(self) -> None:
        """Weights, and all that it takes to go on exactly here, as one sealed folder."""
        step = self.state.global_step
        if not self.holding.all_finite(all_finite(self.model)):
            raise BadLossError(f"The weights are no longer finite at step {step}.", step, step - 1)
        started = time.perf_counter()
        generators = training_state.gathered_generators(self.ranks)
        optimizer = self.holding.optimizer_state(self.optimizer)
        with self.holding.weights(self.loaded.model, all_of_them=not self.loaded.adapted):
            if self.ranks.number == 0:
                self._write(step, optimizer, generators)
        self.counted.saving = time.perf_counter() - started

    def _write(self, step: int, optimizer: dict[str, Any], generators: list[torch.Tensor]) -> None:
        eval_loss = self.last_eval[1] if self.last_eval and self.last_eval[0] == step else None
        with self.checkpoints.writing(step, eval_loss) as work:
            save_adapter(self.loaded, work)
            self.state.save_to_json(str(work / TRAINER_STATE_NAME))
            scaler = getattr(self.accelerator, "scaler", None)
            training_state.save(
                {
                    "optimizer": optimizer,
                    "scheduler": self.lr_scheduler.state_dict(),
                    "scaler": scaler.state_dict() if scaler is not None else None,
                    "random": training_state.random_state(),
                    "generators": generators,
                    "batches_a_step": self.batches_a_step,
                    "counted": dataclasses.asdict(self.counted),
                    "rate_scale": self.rate_scale or 1.0,
                    "learning_rate": self.settings.learning_rate,
                    "extras": {type(one).__name__: one.state_dict() for one in self.extras},
                },
                work,
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Trainer's own, into whole weights."""
        whole = self.holding.weights(self.loaded.model, all_of_them=not self.loaded.adapted, change=True)
        with whole:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _clip_grad_norm(self, model: Any) -> Any:
        """Trainer's own, where it has not been done."""
        done = self.holding.grad_norm()
        return super()._clip_grad_norm(model) if done is None else done  # type: ignore[misc]

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Trainer's own; of split gradients it is a share of one."""
        grad_norm = self.holding.grad_norm() if grad_norm is None else grad_norm
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        kept = training_state.load(Path(checkpoint))
        self.holding.load_optimizer_state(self.optimizer, kept["optimizer"])
        self.lr_scheduler.load_state_dict(kept["scheduler"])
        if kept["scaler"] is not None and getattr(self.accelerator, "scaler", None) is not None:
            self.accelerator.scaler.load_state_dict(kept["scaler"])
        self.counted = Counted(**kept["counted"])
        self.generators = kept["random"], kept.get("generators", [])
        for one in self.extras:
            one.load_state_dict(kept["extras"][type(one).__name__])
        before_it = kept.get("batches_a_step", self.batches_a_step)
        if before_it != self.batches_a_step:
            text = (
                f"The checkpoint was made with {before_it} batches a step, and the run goes on with "
                f"{self.batches_a_step}: rows of this epoch may come again or not at all."
            )
            self.sink.emit("note", level="warning", text=text)
        if self.rate_scale is None:
            # a branch with another learning rate takes that; else what was set while the run went on stays
            same = kept["learning_rate"] == self.settings.learning_rate
            self.rate_scale = kept["rate_scale"] if same else 1.0
        before = kept["learning_rate"] * kept["rate_scale"]
        self._scale_rate(self.settings.learning_rate * self.rate_scale / before)
        for group in self.optimizer.param_groups:
            if group.get("weight_decay"):  # parameters that never decay have a group of their own
                group["weight_decay"] = self.settings.weight_decay

    def steps_done(self, checkpoint: Path) -> bool:
        """Whether a checkpoint was made after the last step."""
        reached = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).global_step
        return reached >= total_steps(self.settings, len(self.batches), self.batches_a_step)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Trainer's own, at the run's share of the learning rate; a checkpoint brings its own share."""
        made = super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]
        self._scale_rate(self.rate_scale or 1.0)
        return made

    def set_peak(self, peak: float) -> None:
        """Go on with another peak learning rate; the schedule's shape stays, checkpoints keep it."""
        scale = peak / self.settings.learning_rate
        self._scale_rate(scale / (self.rate_scale or 1.0))
        self.rate_scale = scale

    def _scale_rate(self, factor: float) -> None:
        """Multiply the learning rate, now and for the rest of the schedule."""
        if factor == 1.0:
            return
        for group in self.optimizer.param_groups:
            for name in ("lr", "initial_lr"):
                if name in group:
                    group[name] *= factor
        for name in ("base_lrs", "_last_lr"):
            if hasattr(self.lr_scheduler, name):
                setattr(self.lr_scheduler, name, [rate * factor for rate in getattr(self.lr_scheduler, name)])

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Loaded with the optimizer."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """As they were read with the optimizer: the file may be large."""
        if checkpoint is not None:
            own, of_ranks = self.generators
            training_state.restore_random_state(own)
            training_state.restore_generators(of_ranks, self.ranks, self.settings.seed)


@dataclasses.dataclass
class Counted:
    """What a run has done so far; a resumed one counts on."""

    tokens: int = 0
    trained_tokens: int = 0
    busy: float = 0.0
    """Seconds of training, pauses and evaluations left out."""
    saving: float = 0.0
    """Seconds that the last checkpoint took."""


class BadLossError(RunError):
    """The loss is no longer a number, or runs away; `last_good` is the last step at which it was fine."""

    def __init__(self, message: str, step: int, last_good: int, advice: str = "") -> None:
        super().__init__(message, advice)
        self.step = step
        self.last_good = last_good


def checkpoints_of(recipe: Recipe, folder: Path) -> Checkpoints:
    """The checkpoints of a run folder, kept as its Recipe says."""
    output, best = recipe.output, recipe.training.keep_best
    return Checkpoints(folder / "checkpoints", output.keep_checkpoints, best, output.keep_every)


def total_steps(settings: Training, batches_an_epoch: int, batches_a_step: int) -> int:
    """Optimizer steps of the whole run; the last step of an epoch may hold fewer batches."""
    if settings.max_steps is not None:
        return settings.max_steps
    steps = math.ceil(batches_an_epoch / batches_a_step)
    return max(1, math.ceil(steps * settings.epochs))
