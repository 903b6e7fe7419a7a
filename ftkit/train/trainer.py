"""transformers' Trainer over ftkit's batches, losses, events and turns.

Trainer brings the schedules, the checkpoints, accelerate and the optimizers; what is replaced is the loss
(per-token log-probabilities), the evaluation (a mean over tokens, not over batches), and the reporting.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
)

from ftkit.data.batches import PackedCollator, PaddedCollator
from ftkit.data.batching import Batches, Share
from ftkit.data.encoded import Encoded
from ftkit.data.token_store import lengths
from ftkit.fast.logprobs import LogProbs
from ftkit.models.load import LoadedModel
from ftkit.recipe import AdaLoRA, Recipe, Training
from ftkit.train.curvature import curvature
from ftkit.train.holding import Holding
from ftkit.train.job import Job
from ftkit.train.keeping import Average, AveragedOptimizer, Best
from ftkit.train.noise import Noise
from ftkit.train.objectives import Batch, Outcome, choose
from ftkit.train.objectives.base import Known, Lay, trained_tokens
from ftkit.train.optimizers import create, schedule_settings
from ftkit.train.protocol import Sink
from ftkit.train.rank_budget import RankBudget, penalty
from ftkit.train.reference import ModelPasses
from ftkit.train.reporter import Reporter, Tally
from ftkit.train.steps import Counted, Steps, checkpoints_of, total_steps
from ftkit.train.teacher import Teacher


class FtkitTrainer(Steps, Trainer):
    """A Trainer whose loss an `Objective` makes, and whose steps take turns with other users of the model.

    Parameters
    ----------
    reference
        What the model said before training of the training and of the held-out rows, where its objective
        needs it and it cannot be asked any more.
    teacher
        Another model that it learns from, where its objective does.
    """

    def __init__(
        self,
        job: Job,
        loaded: LoadedModel,
        logprobs: LogProbs,
        rows: Sequence[Encoded],
        eval_rows: Sequence[Encoded],
        *,
        recompute: str = "off",
        rate_scale: float | None = None,
        reference: tuple[Known | None, Known | None] = (None, None),
        holding: Holding | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        recipe, ranks = job.recipe, job.ranks
        self.loaded = loaded
        self.gate = loaded.gate
        self.logprobs = logprobs
        self.sink = job.sink
        self.recipe = recipe
        self.settings = recipe.training
        self.ranks = ranks
        self.holding = holding or Holding()
        self.wishes = ranks.obeying(job.control)
        self.counted = Counted()
        self.rate_scale = rate_scale
        self.checkpoints = checkpoints_of(recipe, job.folder)
        self.last_eval: tuple[int, float] | None = None
        self.extras = extras_of(recipe, loaded, job.sink, lambda: self.optimizer)
        self.tally = Tally()
        self.objective = choose(recipe)
        self.passes = ModelPasses(loaded, logprobs, teacher)
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
            args=arguments_of(recipe, loaded, steps, bool(held_out), job.folder, recompute),
            data_collator=collate,
            train_dataset=items,
            eval_dataset=held_out,
            callbacks=[Reporter(self, job.sink), *self.extras],
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
        return self.holding.wrapped(self)

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """It is there already: split weights must not be moved."""

    def _outcome(self, model: torch.nn.Module, inputs: Batch) -> Outcome:
        """What the objective makes of a batch, through the model where that is wrapped."""
        through = self.holding.through(model)
        if through is None:
            outcome = self.objective.outcome(self.passes, inputs)
        else:
            outcome = Outcome(*through(self._parts, inputs))
        if _NOTHING in inputs:
            return Outcome(tuple(0 * term for term in outcome.terms))
        return outcome

    def _parts(self, inputs: Batch) -> tuple[Any, Any]:
        """An outcome as what wraps a model can look through."""
        outcome = self.objective.outcome(self.passes, inputs)
        return outcome.terms, dict(outcome.figures)

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

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Trainer's own; and what Sophia wants to know, by the first batch of a step."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        if getattr(optimizer, "due", False):
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            optimizer.curvature = curvature(self.model, self.logprobs, self._prepare_inputs(inputs), trained)
        return loss

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
                self.ranks.agreed(0.0)  # the others begin once rank 0 has the turn
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
        fp16=loaded.dtype == "float16",  # a scaled loss: small gradients are below float16
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
