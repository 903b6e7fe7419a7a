"""Runs with a teacher: the student comes nearer to it, however either lays out its rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ftkit
from ftkit.data.batches import PackedCollator, PaddedCollator
from ftkit.data.encoded import Encoded
from ftkit.errors import RunError
from ftkit.models import load_model
from ftkit.recipe import Fast, Recipe
from ftkit.train.objectives.distillation import jensen_shannon
from ftkit.train.teacher import Teacher

ROWS = [{"instruction": f"What is on table {n}?", "output": f"A lamp and {n} cups."} for n in range(12)]
STUDENT = {"initializer_range": 0.3}  # an adapter can make words likely
LARGER = {"hidden_size": 48, "intermediate_size": 96, "initializer_range": 0.3}
Start = Callable[..., Any]


@pytest.fixture
def start(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> Start:
    def run(teacher: Path | None = None, method: str = "full", **changes: Any) -> Any:
        recipe = Recipe(
            model=str(tiny_model_folder(**STUDENT)),
            data={"source": str(ftkit.data.save_rows(ROWS)), "held_out_fraction": 0.2},
            method=method,
            objective={"type": "distillation", "teacher": str(teacher or tiny_model_folder(**LARGER))},
            training={
                "epochs": 8, "batch_size": 4, "learning_rate": 1e-2, "evals": 1, "warmup": 0,
                "lr_scheduler": "constant", "checkpoints": 0,
            },
            compute={"device": "cpu", "dtype": "float32"},
            output={"folder": tmp_path},
        ).replace(changes)  # fmt: skip
        return ftkit.start(recipe).wait()

    return run


@pytest.mark.parametrize(
    ("method", "beta", "rate", "left"), [("full", 0.0, 1e-2, 0.9), ("lora", 0.5, 2e-2, 0.98)]
)
def test_the_student_comes_nearer_to_its_teacher(
    start: Start, method: str, beta: float, rate: float, left: float
) -> None:
    changes = {"objective.beta": beta, "objective.label_weight": 0.1, "training.learning_rate": rate}
    run = start(method=method, **changes)
    metrics = run.metrics
    held_out = metrics.eval_divergence.dropna()
    assert held_out.iloc[-1] < left * held_out.iloc[0]
    assert metrics.divergence.iloc[-1] < left * metrics.divergence.dropna().iloc[0]
    assert metrics.entropy.dropna().gt(0).all()
    (facts,) = [event["facts"] for event in run.events() if event["kind"] == "environment"]
    assert "folder" in facts["teacher"]


@pytest.mark.parametrize("fast", [True, False])
def test_a_teacher_with_more_rows_in_its_head_will_do(
    start: Start, tiny_model_folder: Callable[..., Path], fast: bool
) -> None:
    from transformers import AutoTokenizer

    words = len(AutoTokenizer.from_pretrained(tiny_model_folder()))
    padded = tiny_model_folder(**LARGER, vocab_size=words + 24)
    held_out = start(padded, **{"compute.fast": fast}).metrics.eval_divergence.dropna()
    assert held_out.iloc[-1] < 0.9 * held_out.iloc[0]


def test_a_student_that_is_its_own_teacher_has_nothing_to_learn(
    start: Start, tiny_model_folder: Callable[..., Path]
) -> None:
    metrics = start(tiny_model_folder(**STUDENT), method="lora", **{"training.max_steps": 1}).metrics
    assert metrics.divergence.dropna().iloc[0] == pytest.approx(0, abs=1e-5)


def test_a_run_without_a_teacher_ends_in_words(start: Start) -> None:
    with pytest.raises(RunError, match=r"objective.teacher is empty"):
        start(**{"objective.teacher": ""})


def test_a_teacher_that_pads_is_asked_about_rows_end_to_end(tiny_model_folder: Callable[..., Path]) -> None:
    chance = np.random.default_rng(2)
    rows = [
        Encoded(chance.integers(3, 300, length).astype(np.int32), np.arange(length) >= 2, number)
        for number, length in enumerate((9, 4, 13))
    ]
    recipe = Recipe(model=str(tiny_model_folder(**LARGER)), compute={"device": "cpu", "dtype": "float32"})
    loaded = load_model(recipe.model, recipe.compute)
    pads = Teacher.of(loaded, Fast.of(False), packed=True)
    assert not pads.way.packed
    wanted = pads.outputs(PaddedCollator(0)(rows)).states
    torch.testing.assert_close(pads.outputs(PackedCollator()(rows)).states, wanted, atol=1e-5, rtol=1e-5)
    packs = Teacher.of(loaded, Fast(), packed=True)
    assert packs.way.packed
    found = packs.outputs(PackedCollator()(rows))
    assert found.head is not None
    torch.testing.assert_close(found.states @ found.head.T, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_divergence_is_zero_between_equals_and_positive_otherwise(beta: float) -> None:
    one, other = torch.randn(2, 5, 30, dtype=torch.float64).log_softmax(-1).unbind()
    assert jensen_shannon(one, one, beta).abs().max() < 1e-12
    assert jensen_shannon(one, other, beta).min() > 0
    torch.testing.assert_close(jensen_shannon(one, other, beta), jensen_shannon(other, one, 1 - beta))
