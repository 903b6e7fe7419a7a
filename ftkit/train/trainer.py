"""transformers' Trainer over ftkit's batches, losses, events and turns.

Trainer brings the schedules, the checkpoints, accelerate and the optimizers; what is replaced is the loss
(per-token log-probabilities), the evaluation (a mean over tokens, not over batches), and the reporting.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.data_loader import prepare_data_loader
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME

from ftkit.data.batches import PackedCollator, PaddedCollator
from ftkit.data.batching import Batches, Share
from ftkit.data.encoded import Encoded
from ftkit.data.token_store import lengths
from ftkit.errors import RunError
from ftkit.fast.logprobs import LogProbs
from ftkit.models.adapters import save_adapter
from ftkit.models.load import LoadedModel
from ftkit.recipe import AdaLoRA, Recipe, Training
from ftkit.train import training_state
from ftkit.train.checkpoints import Checkpoints
from ftkit.train.keeping import Average, AveragedOptimizer, Best
from ftkit.train.noise import Noise
from ftkit.train.objectives import Batch, Objective, Outcome, choose
from ftkit.train.objectives.base import Known, Lay, trained_tokens
from ftkit.train.optimizers import create, schedule_settings
from ftkit.train.protocol import Control, Sink
from ftkit.train.rank_budget import RankBudget, penalty
from ftkit.train.ranks import ALONE, Ranks
from ftkit.train.reference import ModelPasses
from ftkit.train.watch import LossWatch, all_finite


class Steps:
    """What a Trainer of ftkit does beside its loss: sealed checkpoints, and a rate that can be changed."""

    loaded: LoadedModel
    settings: Training
    sink: Sink
    ranks: Ranks
    counted: Counted
    checkpoints: Checkpoints
    rate_scale: float | None
    last_eval: tuple[int, float] | None
    batches: Any
    batches_a_step: int
    extras: Sequence[Any] = ()
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
        if not all_finite(self.model):
            raise BadLossError(f"The weights are no longer finite at step {step}.", step, step - 1)
        started = time.perf_counter()
        generators = training_state.gathered_generators(self.ranks)
        if self.ranks.number > 0:
            return
        eval_loss = self.last_eval[1] if self.last_eval and self.last_eval[0] == step else None
        with self.checkpoints.writing(step, eval_loss) as work:
            save_adapter(self.loaded, work)
            self.state.save_to_json(str(work / TRAINER_STATE_NAME))
            scaler = getattr(self.accelerator, "scaler", None)
            training_state.save(
                {
                    "optimizer": self.optimizer.state_dict(),
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
        self.counted.saving = time.perf_counter() - started

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        kept = training_state.load(Path(checkpoint))
        self.optimizer.load_state_dict(kept["optimizer"])
        self.lr_scheduler.load_state_dict(kept["scheduler"])
        if kept["scaler"] is not None and getattr(self.accelerator, "scaler", None) is not None:
            self.accelerator.scaler.load_state_dict(kept["scaler"])
        self.counted = Counted(**kept["counted"])
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
        if checkpoint is not None:
            kept = training_state.load(Path(checkpoint))
            training_state.restore_random_state(kept["random"])
            training_state.restore_generators(kept.get("generators", []), self.ranks, self.settings.seed)


class FtkitTrainer(Steps, Trainer):
    """A Trainer whose loss an `Objective` makes, and whose steps take turns with other users of the model.

    Parameters
    ----------
    reference
        What the model said before training of the training and of the held-out rows, where its objective
        needs it and it cannot be asked any more.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        logprobs: LogProbs,
        rows: Sequence[Encoded],
        eval_rows: Sequence[Encoded],
        recipe: Recipe,
        folder: Path,
        sink: Sink,
        control: Control,
        recompute: str = "off",
        rate_scale: float | None = None,
        reference: tuple[Known | None, Known | None] = (None, None),
        ranks: Ranks = ALONE,
    ) -> None:
        self.loaded = loaded
        self.gate = loaded.gate
        self.logprobs = logprobs
        self.sink = sink
        self.recipe = recipe
        self.settings = recipe.training
        self.ranks = ranks
        self.wishes = ranks.obeying(control)
        self.counted = Counted()
        self.rate_scale = rate_scale
        self.checkpoints = checkpoints_of(recipe, folder)
        self.last_eval: tuple[int, float] | None = None
        self.extras = extras_of(recipe, loaded, sink, lambda: self.optimizer)
        self.tally = Tally()
        self.objective = choose(recipe)
        self.passes = ModelPasses(loaded, logprobs)
        items = self.objective.items(rows, reference[0])
        held_out = self.objective.items(eval_rows, reference[1]) if len(eval_rows) else None
        self.batches = batches(recipe.training, items, logprobs)
        self.batches_a_step = ranks.count * recipe.training.gradient_accumulation_steps
        steps = total_steps(recipe.training, len(self.batches), self.batches_a_step)
        collate: Callable[..., Batch] = partial(self.objective.collate, lay=layout(loaded, logprobs))
        if ranks.count > 1:
            collate = _OrNothing(collate, items[int(lengths(items).argmin())])
        super().__init__(
            model=loaded.model,
            args=arguments_of(recipe, loaded, steps, bool(held_out), folder, recompute),
            data_collator=collate,
            train_dataset=items,
            eval_dataset=held_out,
            callbacks=[Reporter(self, sink), *self.extras],
        )
        self.model_accepts_loss_kwargs = True
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)

    def get_train_dataloader(self) -> DataLoader:
        """The rows by `batches`; a resumed run goes on with the batch that is next."""
        return self._by_batches(self.train_dataset, self.batches)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The held-out rows, in batches of the same size, always in the same order."""
        rows = self.eval_dataset
        return self._by_batches(rows, batches(self.settings, rows, self.logprobs, shuffled=False))

    def _by_batches(self, rows: Any, chosen: Batches) -> DataLoader:
        loader: DataLoader = DataLoader(
            rows,
            batch_sampler=Share(chosen, self.ranks.number, self.ranks.count),
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
            # every pass over a loader draws a seed: from its own generator, or an evaluation more or less
            # would change the dropout of the steps after it
            generator=torch.Generator().manual_seed(self.settings.seed),
        )
        # one process's loader: the ranks' shares are taken already, and no row is trained on twice
        return prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> torch.nn.Module:
        """Ranks add up their gradients while the backward pass makes them; the forward is the objective's."""
        if self.ranks.count == 1 or not training:
            return super()._wrap_model(model, training, dataloader)
        device = self.accelerator.device
        return DistributedDataParallel(
            _Whole(self.model, self.objective, self.passes),
            device_ids=None if device.type == "cpu" else [device.index],
            find_unused_parameters=True,  # experts of a mixture may get no token on one rank
        )

    def _outcome(self, model: torch.nn.Module, inputs: Batch) -> Outcome:
        """What the objective makes of a batch, through the model where that is wrapped."""
        if isinstance(model, DistributedDataParallel):
            outcome = Outcome(*model(inputs))
        else:
            outcome = self.objective.outcome(self.passes, inputs)
        if _NOTHING in inputs:
            return Outcome(tuple(0 * term for term in outcome.terms))
        return outcome

    def _counts(self, batch: Batch) -> tuple[int, ...]:
        counts = self.objective.counts(batch)
        return tuple(0 for _ in counts) if _NOTHING in batch else counts

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Each term of the objective as a mean over the whole optimizer step, of all ranks together."""
        outcome = self._outcome(model, inputs)
        if _NOTHING not in inputs:
            self.counted.tokens += _useful_tokens(inputs)
            self.counted.trained_tokens += trained_tokens(inputs)
        self.tally.add(outcome)
        counts: Any = num_items_in_batch
        if counts is None:
            counts = self._get_num_items_in_batch([inputs], self.args.device)
        loss = sum(term / count for term, count in zip(outcome.terms, counts, strict=True))
        if self.ranks.count > 1:  # gradients and losses are averaged over the ranks; theirs is a sum
            loss = loss * self.ranks.count
        more = penalty(model)
        if more is not None:
            loss = loss + more / self.current_gradient_accumulation_steps
        return (loss, None) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Recipe's optimizer over its own parameter groups."""
        self.optimizer: Any
        if self.optimizer is None:
            self.optimizer = create(self.model, self.recipe)
        return self.optimizer

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Of how much each term of the loss is the mean: summed over a step, on all ranks, at least 1."""
        counts = [self._counts(batch) for batch in batch_samples]
        if not counts:
            return None
        sums = self.ranks.total([sum(of_term) for of_term in zip(*counts, strict=True)])
        return torch.tensor([round(one) for one in sums], device=device).clamp(min=1)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss over all held-out rows, whatever their batches; other users get turns in between."""
        started = time.perf_counter()
        model = self.model
        terms: list[float] = []
        counts: list[float] = []
        tally = Tally()
        was_training = model.training
        for batch in self.get_eval_dataloader():
            if self.wishes.stopping:
                return {"eval_loss": self.last_eval[1] if self.last_eval else math.inf}
            with self.gate.turn("evaluation"), torch.no_grad():
                model.eval()
                inputs = self._prepare_inputs(batch)
                outcome = self._outcome(model, inputs)
                terms = _added(terms, [term.item() for term in outcome.terms])
                counts = _added(counts, self._counts(inputs))
                tally.add(outcome)
                model.train(was_training)
        terms, counts, tally = self.ranks.total(terms), self.ranks.total(counts), tally.over(self.ranks)
        loss = sum(term / max(count, 1) for term, count in zip(terms, counts, strict=True))
        seconds = time.perf_counter() - started
        self.sink.emit(
            "eval",
            step=self.state.global_step,
            epoch=self.state.epoch or 0.0,
            loss=loss,
            **tally.means(),
            seconds=seconds,
        )
        self.last_eval = (self.state.global_step, loss)
        metrics = {"eval_loss": loss}
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


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


class Tally:
    """What is told beside the loss, summed on the device and read when it is told."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, outcome: Outcome) -> None:
        """Take in what one pass has to tell."""
        for name, (total, count) in outcome.figures.items():
            self._sums[name] = total + self._sums[name] if name in self._sums else total
            self._counts[name] = self._counts.get(name, 0) + count

    def over(self, ranks: Ranks) -> Tally:
        """The same of all ranks together."""
        if ranks.count == 1:
            return self
        whole = Tally()
        own = {name: (float(total), self._counts[name]) for name, total in self._sums.items()}
        for figures in ranks.shared(own):
            whole.add(Outcome((), {name: (torch.tensor(total), n) for name, (total, n) in figures.items()}))
        return whole

    def means(self) -> dict[str, float | None]:
        """Each figure's mean; `accuracy` and `entropy` of tokens are None where they are not known."""
        made: dict[str, float | None] = {"accuracy": None, "entropy": None}
        made |= {
            name: float(total) / count for name, total in self._sums.items() if (count := self._counts[name])
        }
        chosen, rejected = made.get("chosen_reward"), made.get("rejected_reward")
        if chosen is not None and rejected is not None:
            made["margin"] = chosen - rejected
        return made


_NOTHING = "nothing"
"""In a batch of which nothing counts."""


class _OrNothing:
    """Makes of no items a batch of which nothing counts, of `item`.

    A rank that has no rows left computes it beside the others: they wait for its gradients, which are zero.
    """

    def __init__(self, collate: Callable[[Sequence[Any]], Batch], item: Any) -> None:
        self.collate = collate
        self.item = item

    def __call__(self, items: Sequence[Any]) -> Batch:
        return self.collate(items) if items else self.collate([self.item]) | {_NOTHING: torch.tensor(True)}


class _Whole(torch.nn.Module):
    """A forward pass that is all that an objective asks of the model: DistributedDataParallel wraps one."""

    def __init__(self, model: torch.nn.Module, objective: Objective, passes: ModelPasses) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.passes = passes

    def forward(self, batch: Batch) -> tuple[Any, Any]:
        outcome = self.objective.outcome(self.passes, batch)
        return outcome.terms, dict(outcome.figures)


class Reporter(TrainerCallback):
    """Trainer's moments as events, the person's wishes as its control flags, one turn of the gate a step."""

    def __init__(self, trainer: Any, sink: Sink) -> None:
        self.trainer = trainer
        self.sink = sink
        self.wishes = trainer.wishes
        self.process = psutil.Process()
        self.turn: AbstractContextManager[Any] | None = None
        self.step_started = 0.0
        self.before_step = (0, 0)
        self.step_tokens = (0, 0)
        self.tokens_per_second = 0.0
        self.last_step = 0.0
        self.last_epoch = False
        self.watch = LossWatch()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        elapsed = self.trainer.counted.busy
        self.sink.emit("steps", step=state.global_step, total_steps=state.max_steps, elapsed=elapsed)
        none = self.trainer.ranks.agreed(float(not self.trainer.checkpoints.all()))
        if self.trainer.settings.on_bad_loss == "roll_back" and none:
            self.trainer.save_checkpoint()  # so that there is something to go back to from the first step on

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # Trainer's own call does not reach a sampler through every release's way of skipping batches.
        a_step = self.trainer.batches_a_step
        self.trainer.batches.set_epoch(state.global_step // math.ceil(len(self.trainer.batches) / a_step))

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.turn = self.trainer.gate.turn("training")
        self.turn.__enter__()
        self.step_started = time.perf_counter()
        self.trainer.tally = Tally()
        self.before_step = self._seen()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        seconds = time.perf_counter() - self.step_started
        self.trainer.counted.busy += seconds
        self.last_step = seconds
        self._count_all()
        self.tokens_per_second = self.step_tokens[0] / seconds
        self.release()
        self._as_asked(control)
        every = self.trainer.settings.sample_every
        if every and state.global_step % every == 0:
            self.wishes.sample(state.global_step)
        if state.global_step >= state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True

    def _as_asked(self, control: TrainerControl) -> None:
        """Do what people asked for, now that the step is over."""
        for wish in self.wishes.asked():
            if wish.name == "save":
                control.should_save = True
            elif wish.name == "evaluate":
                control.should_evaluate = self.trainer.eval_dataset is not None
                if not control.should_evaluate:
                    self.sink.emit("note", level="warning", text="There are no held-out rows to evaluate on.")
            elif wish.name == "sample":
                self.wishes.sample(self.trainer.state.global_step)
            elif wish.name == "stop_after_epoch":
                self.last_epoch = True
                self.sink.emit("note", level="info", text="The run stops at the end of this epoch.")
            elif wish.name == "learning_rate" and wish.value is not None:
                self.trainer.set_peak(wish.value)
                text = f"Peak learning rate {wish.value:g} from step {self.trainer.state.global_step + 1} on."
                self.sink.emit("note", level="info", text=text)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.last_epoch and state.global_step < state.max_steps:
            control.should_training_stop = True
            control.should_save = True
            self.wishes.end("at the end of an epoch, as asked")

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        norm = float(logs["grad_norm"]) if "grad_norm" in logs else None
        counted = self.trainer.counted
        (memory,) = self.trainer.ranks.total([self.process.memory_info().rss / 1e9])
        self.sink.emit(
            "train",
            step=state.global_step,
            epoch=state.epoch or 0.0,
            loss=loss,
            **self.trainer.tally.means(),
            learning_rate=logs.get("learning_rate"),
            grad_norm=norm,
            tokens=counted.tokens,
            trained_tokens=counted.trained_tokens,
            step_tokens=self.step_tokens[0],
            step_trained_tokens=self.step_tokens[1],
            tokens_per_second=self.tokens_per_second,
            memory_gb=memory,
            gpu_memory_gb=torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None,
            elapsed=counted.busy,
        )
        state.log_history.clear()  # the run's events keep it; a list of every step would grow for ever
        trouble = self.watch.look(state.global_step, loss, norm)
        if trouble:
            raise BadLossError(
                trouble,
                state.global_step,
                self.watch.last_good,
                f"Lower training.learning_rate (now {args.learning_rate:g}) to a third and start again, or "
                "set training.on_bad_loss to roll_back; the last checkpoint before this step is whole.",
            )
        self.wishes.checkpoint()
        if self.wishes.stopping or self.wishes.out_of_time(2 * self.last_step + counted.saving):
            control.should_training_stop = True
            control.should_save = True
            control.should_evaluate = False

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.sink.emit(
            "checkpoint", step=state.global_step, path=f"checkpoints/checkpoint-{state.global_step}"
        )

    def _count_all(self) -> None:
        """What this step has seen, on all ranks."""
        trainer = self.trainer
        own = [now - before for now, before in zip(self._seen(), self.before_step, strict=True)]
        tokens, trained = (round(one) for one in trainer.ranks.total(own))
        self.step_tokens = (tokens, trained)
        trainer.counted.tokens = self.before_step[0] + tokens
        trainer.counted.trained_tokens = self.before_step[1] + trained
        trainer.tally = trainer.tally.over(trainer.ranks)

    def _seen(self) -> tuple[int, int]:
        return self.trainer.counted.tokens, self.trainer.counted.trained_tokens

    def release(self) -> None:
        """Let the next user of the model have its turn; also called when training ends in an error."""
        if self.turn is not None:
            self.turn.__exit__(None, None, None)
            self.turn = None


def run_trainer(trainer: Any, resume_from: Path | None) -> None:
    """Train to the end, to a stop, or to an error; the gate is free afterwards in each case."""
    if resume_from is not None and trainer.steps_done(resume_from):
        trainer._load_from_checkpoint(str(resume_from))  # it was lost while its result was being saved
        return
    alpha = trainer.settings.neftune_alpha
    noise = Noise(trainer.model, alpha) if alpha is not None else None
    try:
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    finally:
        if noise is not None:
            noise.remove()
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, Reporter):
                callback.release()


def extras_of(recipe: Recipe, loaded: LoadedModel, sink: Sink, optimizer: Callable[[], Any]) -> list[Any]:
    """What the Recipe wants done beside the steps themselves: callbacks whose state checkpoints keep."""
    training, model = recipe.training, loaded.model
    made: list[Any] = []
    if isinstance(recipe.method, AdaLoRA):
        made.append(RankBudget(model, recipe.method))
    if training.keep_best or training.early_stopping_patience is not None:
        made.append(Best(model, sink, training.keep_best, training.early_stopping_patience))
    if training.ema_decay is not None:
        made.append(Average(model, training.ema_decay))
    if training.optimizer == "schedule_free":
        made.append(AveragedOptimizer(optimizer))
    return made


def batches(
    settings: Training, rows: Sequence[Encoded], logprobs: LogProbs, *, shuffled: bool = True
) -> Batches:
    """How `rows` are batched for training, or for evaluation (not shuffled)."""
    return Batches.of(lengths(rows), settings, padded=not logprobs.packed, shuffled=shuffled)


def checkpoints_of(recipe: Recipe, folder: Path) -> Checkpoints:
    """The checkpoints of a run folder, kept as its Recipe says."""
    output = recipe.output
    return Checkpoints(folder / "checkpoints", output.keep_checkpoints, output.keep_best, output.keep_every)


def total_steps(settings: Training, batches_an_epoch: int, batches_a_step: int) -> int:
    """Optimizer steps of the whole run; the last step of an epoch may hold fewer batches."""
    if settings.max_steps is not None:
        return settings.max_steps
    steps = math.ceil(batches_an_epoch / batches_a_step)
    return max(1, math.ceil(steps * settings.epochs))


def _added(sums: Sequence[float], more: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(sums or [0.0] * len(more), more, strict=True)]


def layout(loaded: LoadedModel, logprobs: LogProbs) -> Lay:
    """How rows are laid out for a pass."""
    return PackedCollator() if logprobs.packed else PaddedCollator(loaded.tokenizer.pad_token_id)


def _useful_tokens(inputs: dict[str, Any]) -> int:
    """Tokens of the batch and of a batch inside it, padding left out."""
    mask = inputs.get("attention_mask")
    own = int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
    return own + sum(_useful_tokens(inner) for inner in inputs.values() if isinstance(inner, dict))


def _recomputation(on: bool) -> dict[str, Any]:
    """Trainer's arguments for recomputed activations, by the names that this release has for them."""
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return {name: on, f"{name}_kwargs": {"use_reentrant": False}}


def arguments_of(
    recipe: Recipe,
    loaded: LoadedModel,
    steps: int,
    has_eval: bool,
    folder: Path,
    recompute: str,
    kind: type[TrainingArguments] = TrainingArguments,
    **own: Any,
) -> Any:
    """What Trainer is told; `own` are arguments of another `kind` of it, or others than the Recipe's."""
    training = recipe.training
    evaluates = has_eval and training.evals > 0
    told: dict[str, Any] = dict(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        **_recomputation(recompute == "layers"),
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler,
        warmup_steps=math.ceil(training.warmup * steps),
        lr_scheduler_kwargs=schedule_settings(training, steps),
        metric_for_best_model="loss",  # what the plateau of a schedule is seen by
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=max(1, math.ceil(steps / training.evals)) if evaluates else None,
        eval_on_start=evaluates,
        save_strategy="steps",
        save_steps=max(1, math.ceil(steps / (training.checkpoints + 1))),
        save_total_limit=None,  # `Checkpoints` deletes: it never deletes the only sound one
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=training.seed,
        data_seed=training.seed,
        use_cpu=loaded.device == "cpu",
        remove_unused_columns=False,
        dataloader_pin_memory=loaded.device != "cpu",
        disable_tqdm=True,
        report_to=[],
    )
    arguments = kind(**told | own)
    arguments._n_gpu = min(arguments.n_gpu, 1)  # a packed batch is one row: DataParallel cannot split it
    return arguments
