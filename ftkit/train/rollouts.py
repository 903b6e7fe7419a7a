"""GRPO and RLOO through TRL: its algorithms and generation; ftkit's checkpoints, events, turns and stops.

Each step the model answers some prompts several times, the replies are rewarded, and those rewarded above
their group become likelier. What it said and got goes out as `rollout` events.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, ProgressCallback

from ftkit.data.batches import PaddedCollator
from ftkit.data.encoded import Encoded
from ftkit.data.example import Example, UnusableRowError
from ftkit.data.sides import question
from ftkit.errors import DataError, RunError
from ftkit.fast.logprobs import LogProbs
from ftkit.models.load import LoadedModel
from ftkit.recipe import GRPO, RLOO
from ftkit.train.job import Job
from ftkit.train.objectives.base import Outcome
from ftkit.train.ranks import ALONE
from ftkit.train.reference import is_the_base
from ftkit.train.reporter import Reporter, Tally
from ftkit.train.rewards import Reward, resolve
from ftkit.train.steps import Counted, Steps, checkpoints_of, total_steps
from ftkit.train.trainer import arguments_of

SHOWN = 4
"""Replies of a step that go out as events: a group, mostly."""
_FIGURES = {
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "reply_tokens",
}


class Prompts:
    """How many passes make an epoch; TRL draws the prompts itself, by seed."""

    efficiency = 1.0

    def __init__(self, prompts: int, a_step: int, passes: int) -> None:
        self.count = prompts // a_step * passes

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, number: int) -> None:
        """Nothing to do."""


def rows_of(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The prompts as TRL takes them, with the answer that each row holds and its other columns.

    Raises
    ------
    DataError
        When no row has a question.
    """
    made: list[dict[str, Any]] = []
    for example in examples:
        try:
            talk = question(example)
        except UnusableRowError:
            continue
        last = max(place for place, turn in enumerate(talk.messages) if turn.role == "user")
        after = [turn.content for turn in talk.messages[last + 1 :] if turn.role == "assistant"]
        prompt = [turn.as_dict() for turn in talk.messages[: last + 1]]
        plain = {key: value for key, value in talk.extra.items() if isinstance(value, (str, int, float))}
        made.append({**plain, "prompt": prompt, "answer": after[-1] if after else "", "row": talk.row})
    if not made:
        raise DataError("No row has a question that the model could answer.", "Give rows with user turns.")
    return made


def make_trainer(
    job: Job,
    loaded: LoadedModel,
    rows: Sequence[dict[str, Any]],
    held_out: Sequence[dict[str, Any]],
    rate_scale: float | None = None,
) -> Any:
    """TRL's trainer for the Recipe's objective.

    Raises
    ------
    RunError
        When TRL is not installed, or a reward is not known.
    """
    recipe = job.recipe
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
        import trl
    except ImportError:
        raise RunError(
            f"Objective {recipe.objective.type!r} runs through TRL, which is not installed.",
            "Install it: pip install 'ftkit[trl]'.",
        ) from None
    settings = recipe.objective
    assert isinstance(settings, (GRPO, RLOO))
    rewards = resolve(settings.rewards)
    trainer, arguments = (
        (trl.GRPOTrainer, trl.GRPOConfig) if isinstance(settings, GRPO) else (trl.RLOOTrainer, trl.RLOOConfig)
    )
    training = recipe.training
    prompts_a_step = training.batch_size * training.gradient_accumulation_steps
    if len(rows) < prompts_a_step:
        raise DataError(
            f"There are {len(rows)} prompts, and a step takes {prompts_a_step}.",
            "Lower training.batch_size (which counts prompts here), or give more rows.",
        )
    batches = Prompts(len(rows), prompts_a_step, training.gradient_accumulation_steps)
    replies = training.batch_size * settings.num_generations
    args = arguments_of(
        recipe,
        loaded,
        total_steps(training, len(batches), training.gradient_accumulation_steps),
        bool(held_out),
        job.folder,
        "off",
        arguments,
        per_device_train_batch_size=replies,
        per_device_eval_batch_size=replies,
        num_generations=settings.num_generations,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        beta=settings.beta,
        disable_dropout=True,  # replies are drawn without it: with it their likelihood would be another's
        bf16=loaded.dtype == "bfloat16",
        eval_on_start=bool(held_out) and training.evals > 0,
    )
    kind = type("Rollouts", (_Rollouts, trainer), {})
    return kind(
        job,
        loaded,
        rewards,
        batches,
        rate_scale,
        args=args,
        train_dataset=datasets.Dataset.from_list(list(rows)),
        eval_dataset=datasets.Dataset.from_list(list(held_out)) if held_out else None,
    )


class _Rollouts(Steps):
    """What both of TRL's trainers get: ftkit's steps, and rewards that say what is wrong with them."""

    def __init__(
        self,
        job: Job,
        loaded: LoadedModel,
        rewards: dict[str, Reward],
        batches: Prompts,
        rate_scale: float | None,
        **trl: Any,
    ) -> None:
        self.loaded, self.gate, self.sink = loaded, loaded.gate, job.sink
        self.wishes = ALONE.obeying(job.control)
        self.settings, self.batches, self.ranks = job.recipe.training, batches, ALONE
        self.batches_a_step = self.settings.gradient_accumulation_steps
        self.rewards = rewards
        self.counted, self.tally = Counted(), Tally()
        self.rate_scale = rate_scale
        self.checkpoints = checkpoints_of(job.recipe, job.folder)
        self.last_eval = None
        self._evaluated: dict[str, float] = {}
        head = loaded.model.get_output_embeddings()
        if not hasattr(head, "bias"):  # PEFT's layer of trained tokens, which TRL asks for it
            head.bias = None
        base_will_do = not trl["args"].beta or _is_the_base(loaded)
        with _one_adapter(loaded.model) if base_will_do else contextlib.nullcontext():
            super().__init__(  # type: ignore[call-arg]
                model=loaded.model,
                reward_funcs=[_named(name) for name in rewards],
                processing_class=loaded.tokenizer,
                callbacks=[Reporter(self, job.sink)],
                **trl,
            )
        if job.recipe.method.type == "prefix_tuning":  # a prefix has asked no expert
            self.aux_loss_enabled = False
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)  # type: ignore[attr-defined]

    def _calculate_rewards(
        self, inputs: Sequence[dict[str, Any]], prompts: Sequence[Any], completions: Sequence[Any], ids: Any
    ) -> torch.Tensor:
        """(replies, rewards); TRL's own would let a NaN pass as an answer left out."""
        columns: dict[str, Sequence[Any]] = {
            key: [row[key] for row in inputs] for key in inputs[0] if key != "prompt"
        }
        columns["prompts"] = prompts
        columns["completions"] = texts = [_text(completion) for completion in completions]
        values = {name: reward(columns) for name, reward in self.rewards.items()}
        self._tell(prompts, texts, values)
        training = self.model.training
        if training:
            self.counted.tokens += sum(map(len, ids))
            self.counted.trained_tokens += sum(map(len, ids))
        made = torch.tensor(list(values.values()), dtype=torch.float32, device=self.accelerator.device).T
        from accelerate.utils import gather

        gathered: torch.Tensor = gather(made)
        return gathered

    def _tell(self, prompts: Sequence[Any], texts: Sequence[str], values: dict[str, list[float]]) -> None:
        for place in range(min(SHOWN, len(texts))):
            self.sink.emit(
                "rollout",
                step=self.state.global_step + (1 if self.model.training else 0),
                held_out=not self.model.training,
                prompt=_text(prompts[place]),
                reply=texts[place],
                rewards={name: found[place] for name, found in values.items()},
            )

    def log(self, logs: dict[str, float], *rest: Any, **named: Any) -> None:
        """Take TRL's figures over before it clears them."""
        mode = "train" if self.model.training else "eval"
        told: dict[str, list[float]] = self._metrics[mode]  # type: ignore[attr-defined]
        means = {
            ours: sum(good) / len(good)
            for theirs, ours in _FIGURES.items()
            if (
                good := [
                    value for value in told.get(theirs, ()) if value is not None and math.isfinite(value)
                ]
            )
        }
        if mode == "train":
            self.tally.add(Outcome((), {name: (torch.tensor(mean), 1) for name, mean in means.items()}))
        else:
            self._evaluated = means
        super().log(logs, *rest, **named)  # type: ignore[misc]

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Rewards of replies to the held-out prompts."""
        started = time.perf_counter()
        with self.gate.turn("evaluation"):
            metrics: dict[str, float] = super().evaluate()  # type: ignore[misc]
        loss = float(metrics["eval_loss"])
        self.sink.emit(
            "eval",
            step=self.state.global_step,
            epoch=self.state.epoch or 0.0,
            loss=loss,
            **self._evaluated,
            seconds=time.perf_counter() - started,
        )
        self.last_eval = (self.state.global_step, loss)
        return metrics


def _is_the_base(loaded: LoadedModel) -> bool:
    """Whether the model with its adapter off is the one that training begins from."""
    ids = np.arange(1, 12, dtype=np.int32) * 37 % len(loaded.tokenizer)
    row = Encoded(ids, np.ones(len(ids), bool), 0)
    return is_the_base(loaded, LogProbs(False, None, ""), row, PaddedCollator(loaded.tokenizer.pad_token_id))


@contextlib.contextmanager
def _one_adapter(model: Any) -> Iterator[None]:
    """Have TRL take the model with its adapter off as the reference, where it would copy the adapter."""
    own = model.get_parameter
    if hasattr(model, "add_adapter"):
        model.add_adapter = lambda *_: None
        model.get_parameter = lambda name: own(name.replace(".ref.", ".default."))  # copied onto itself
    try:
        yield
    finally:
        for name in ("add_adapter", "get_parameter"):
            vars(model).pop(name, None)


def _named(name: str) -> Any:
    """A stand-in that TRL takes the name of; `_calculate_rewards` asks the real ones."""

    def reward(**_: Any) -> list[float]:
        raise AssertionError(name)

    reward.__name__ = name
    return reward


def _text(value: Any) -> str:
    """The last message of a conversation, or the text itself."""
    return value if isinstance(value, str) else str(value[-1]["content"])
