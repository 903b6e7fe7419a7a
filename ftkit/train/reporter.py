"""A Trainer's moments as events, and what people ask of the run as what it does next."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from ftkit.train.objectives.base import Outcome
from ftkit.train.protocol import Sink
from ftkit.train.ranks import Ranks
from ftkit.train.steps import BadLossError
from ftkit.train.watch import LossWatch


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
        self.trainer.ranks.agreed(0.0)  # the others begin once rank 0 has the turn
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
        if every and state.global_step % every == 0 and self.trainer.holding.answers:
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
        scaled = getattr(self.trainer.accelerator, "scaler", None) is not None
        counted = self.trainer.counted
        (memory,) = self.trainer.ranks.total([self.process.memory_info().rss / 1e9])
        self.sink.emit(
            "train",
            step=state.global_step,
            epoch=state.epoch or 0.0,
            loss=loss,
            **self.trainer.tally.means(),
            learning_rate=logs.get("learning_rate"),
            grad_norm=None if scaled and norm is not None and not math.isfinite(norm) else norm,
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
        trouble = self.watch.look(state.global_step, loss, norm, scaled=scaled)
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
