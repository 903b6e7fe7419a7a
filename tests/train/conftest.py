"""A small training run of a tiny model, whole or resumed, without a run around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftkit.data import Encoded
from ftkit.fast.logprobs import choose
from ftkit.models import LoadedModel, apply_method, load_model
from ftkit.recipe import Recipe

Learn = Callable[..., tuple[LoadedModel, list[dict[str, Any]]]]


class Events(list[dict[str, Any]]):
    """A sink that remembers."""

    def emit(self, kind: str, **fields: Any) -> None:
        self.append({"kind": kind, **fields})


class Always:
    """A control that lets everything go on."""

    stopping = False

    def checkpoint(self) -> None: ...

    def out_of_time(self, needed: float) -> bool:
        return False

    def asked(self) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def learn(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> Learn:
    """A factory: train the tiny model on a few rows; `resume` names a checkpoint of the same folder.

    Returns the loaded model and the events.
    """
    import torch

    from ftkit.train.job import Job
    from ftkit.train.trainer import FtkitTrainer, run_trainer

    def run(
        recipe: Recipe | None = None,
        *,
        folder: str = "run",
        resume: str | None = None,
        rows: list[Encoded] | None = None,
        **sections: Any,
    ) -> tuple[LoadedModel, list[dict[str, Any]]]:
        training = {"max_steps": 6, "batch_size": 2, "checkpoints": 1, "evals": 0, "learning_rate": 1e-2}
        recipe = recipe or Recipe(
            model={"source": str(tiny_model_folder()), **sections.pop("model", {})},
            compute={"device": "cpu", "dtype": "float32"},
            training=training | sections.pop("training", {}),
            **sections,
        )
        rows = rows or some_rows(8)
        torch.manual_seed(0)
        loaded = load_model(recipe.model, recipe.compute)
        batch = {name: torch.arange(5, 25)[None] for name in ("input_ids", "attention_mask")}
        apply_method(loaded, recipe.method, [batch] * 3)
        way = choose(loaded.model, fast=recipe.compute.fast)
        events = Events()
        held_out = rows[:3] if recipe.training.evals else []
        job = Job(recipe, tmp_path / folder, events, Always())
        trainer = FtkitTrainer(job, loaded, way, rows, held_out)
        run_trainer(trainer, tmp_path / folder / "checkpoints" / resume if resume else None)
        return loaded, events

    return run


def some_rows(count: int) -> list[Encoded]:
    chance = np.random.default_rng(1)
    made = []
    for number in range(count):
        length = int(chance.integers(4, 24))
        made.append(Encoded(chance.integers(5, 300, length).astype(np.int32), np.ones(length, bool), number))
    return made
