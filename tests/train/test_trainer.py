"""Accumulation is a larger batch; a resumed run goes on with the next batch; steps are counted right."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ftkit
from ftkit.data import Encoded
from ftkit.fast.logprobs import choose
from ftkit.models.adapters import apply_method
from ftkit.models.load import load_model
from ftkit.recipe import Recipe
from ftkit.train.job import Job
from ftkit.train.trainer import FtkitTrainer, run_trainer


class Events(list[dict[str, Any]]):
    def emit(self, kind: str, **fields: Any) -> None:
        self.append({"kind": kind, **fields})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self if event["kind"] == kind]


class Always:
    stopping = False

    def checkpoint(self) -> None: ...

    def out_of_time(self, needed: float) -> bool:
        return False

    def asked(self) -> list[Any]:
        return []


def rows(count: int) -> list[Encoded]:
    chance = np.random.default_rng(1)
    made = []
    for number in range(count):
        length = int(chance.integers(3, 30))
        mask = chance.random(length) < 0.6
        mask[1] = True
        made.append(Encoded(chance.integers(5, 300, length).astype(np.int32), mask, number))
    return made


Train = Callable[..., tuple[dict[str, torch.Tensor], Events, list[list[int]]]]


@pytest.fixture
def train(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> Train:
    """Train a tiny model on `rows`: its weights, the events, and the tokens of every batch, in order."""

    def run(
        data: list[Encoded],
        *,
        resume: str | None = None,
        folder: str = "run",
        fast: bool = True,
        **training: Any,
    ) -> tuple[dict[str, torch.Tensor], Events, list[list[int]]]:
        settings = {
            "optimizer": "sgd",
            "lr_scheduler": "constant",
            "warmup": 0,
            "max_grad_norm": 0,
            "evals": 0,
        }
        recipe = Recipe(
            model=str(tiny_model_folder()),
            method="full",
            training={**settings, "learning_rate": 0.1, **training},
            compute={"device": "cpu", "dtype": "float32"},
        )
        torch.manual_seed(0)
        loaded = load_model(recipe.model, recipe.compute)
        apply_method(loaded, recipe.method)
        way = choose(loaded.model, fast=fast)
        events, seen = Events(), []
        job = Job(recipe, tmp_path / folder, events, Always())
        trainer = FtkitTrainer(job, loaded, way, data, data[:5])
        collate = trainer.data_collator

        def watched(batch: list[Encoded]) -> dict[str, torch.Tensor]:
            seen.append([row.row for row in batch])
            return collate(batch)

        trainer.data_collator = watched
        run_trainer(trainer, tmp_path / folder / "checkpoints" / resume if resume else None)
        return (
            {name: weight.detach().clone() for name, weight in loaded.model.named_parameters()},
            events,
            seen,
        )

    return run


@pytest.mark.parametrize("fast", [True, False], ids=["packed", "padded"])
def test_four_passes_of_two_rows_step_like_one_of_eight(train: Train, fast: bool) -> None:
    whole = train(rows(8), batch_size=8, max_steps=1, folder="a", fast=fast)
    parts = train(rows(8), batch_size=2, gradient_accumulation_steps=4, max_steps=1, folder="b", fast=fast)
    by_tokens = train(
        rows(8), batch_tokens=60, gradient_accumulation_steps=50, max_steps=1, folder="c", fast=fast
    )
    for other in (parts, by_tokens):
        for name, weight in whole[0].items():
            torch.testing.assert_close(other[0][name], weight, atol=1e-6, rtol=1e-5)
        (step,), (expected,) = other[1].of("train"), whole[1].of("train")
        assert step["loss"] == pytest.approx(expected["loss"], abs=2e-4)
        assert len(other[2]) > 1
        tokens = sum(len(row.ids) for row in rows(8))
        trained = sum(int(row.mask[1:].sum()) for row in rows(8))
        assert (step["tokens"], step["step_tokens"]) == (tokens, tokens)
        assert (step["trained_tokens"], step["step_trained_tokens"]) == (trained, trained)


@pytest.mark.parametrize("way", [{"batch_size": 3}, {"batch_tokens": 70}], ids=["rows", "tokens"])
@pytest.mark.parametrize("fast", [True, False], ids=["packed", "padded"])
def test_a_resumed_run_goes_on_with_the_batches_that_are_next(
    train: Train, way: dict[str, int], fast: bool
) -> None:
    settings = {**way, "gradient_accumulation_steps": 2, "epochs": 3, "checkpoints": 1}
    weights, events, seen = train(rows(20), **settings, fast=fast)
    (saved, *_) = events.of("checkpoint")
    total = events.of("steps")[0]["total_steps"]
    a_step = len([event for event in events.of("train") if event["epoch"] <= 1])
    assert total == 3 * a_step
    assert saved["step"] % a_step, "the checkpoint should be inside an epoch"
    again, later_events, later = train(rows(20), resume=f"checkpoint-{saved['step']}", **settings, fast=fast)
    assert [event["step"] for event in later_events.of("train")] == list(range(saved["step"] + 1, total + 1))
    assert later == seen[len(seen) - len(later) :]
    epoch = len(seen) // 3
    assert (
        sorted(itertools.chain(*seen[:epoch])) == list(range(20)) == sorted(itertools.chain(*seen[-epoch:]))
    )
    for name, weight in weights.items():
        torch.testing.assert_close(again[name], weight)


def test_the_last_step_of_an_epoch_counts_though_it_is_smaller(train: Train) -> None:
    events = train(rows(10), batch_size=2, gradient_accumulation_steps=2, epochs=2, learning_rate=1e-3)[1]
    assert events.of("steps")[0]["total_steps"] == 6
    assert events.of("train")[-1]["step"] == 6
    assert events.of("train")[-1]["epoch"] == 2
    tokens = sum(len(row.ids) for row in rows(10))
    assert events.of("train")[-1]["tokens"] == 2 * tokens


def test_held_out_loss_does_not_depend_on_the_batches(train: Train) -> None:
    losses = []
    for number, way in enumerate(({"batch_size": 1}, {"batch_size": 5}, {"batch_tokens": 40})):
        events = train(rows(8), **way, max_steps=1, evals=1, learning_rate=1e-9, folder=f"e{number}")[1]
        losses.append(events.of("eval")[0]["loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_accuracy_and_entropy_are_told_with_the_loss(
    tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = ftkit.Recipe(
        model=str(tiny_model_folder()),
        data={"source": "starter:persona", "max_rows": 8},
        training={"epochs": 30, "batch_size": 8, "learning_rate": 1e-2, "evals": 2},
        method="full",
        output={"folder": tmp_path},
    )
    metrics = ftkit.start(recipe).wait().metrics
    accuracy = metrics.accuracy.dropna()
    assert len(accuracy) == 30
    assert accuracy.between(0, 1).all()
    assert accuracy.iloc[-1] > accuracy.iloc[0] + 0.2
    assert metrics.entropy.iloc[-1] < metrics.entropy.dropna().iloc[0]
    assert metrics.eval_accuracy.dropna().between(0, 1).all()
    assert len(metrics.eval_accuracy.dropna()) >= 2


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate",
        "DefaultCPUAllocator: can't allocate memory",
        "could not create a primitive",
    ],
)
def test_no_memory_left_is_explained_whoever_says_it(text: str) -> None:
    from ftkit.runs.launch import explain

    message, advice = explain(RuntimeError(text))
    assert "not enough memory" in message
    assert "batch_size" in advice
