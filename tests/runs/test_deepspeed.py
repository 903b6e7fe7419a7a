"""DeepSpeed shares the optimizer's states out over two processes; skipped where it is not installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import ftkit
from ftkit import manifest
from tests.runs.several import (
    SPOILT,
    TWO,
    Recipes,
    assert_alike,
    assert_rolled_back_twice,
    gone,
    processes,
    recipes,
)
from tests.waiting import up_to

pytest.importorskip("deepspeed", reason='DeepSpeed is not installed: pip install "ftkit[deepspeed]"')
until = up_to(300)


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> Recipes:
    return recipes(tiny_model_folder(), tmp_path / "runs")


@pytest.fixture
def shared(tmp_path: Path) -> Callable[[int], dict[str, object]]:
    """What a Recipe says for two processes by ZeRO of a stage."""

    def make(stage: int) -> dict[str, object]:
        file = tmp_path / "zero.json"
        file.write_text(
            json.dumps(
                {
                    "train_batch_size": "auto",
                    "train_micro_batch_size_per_gpu": "auto",
                    "gradient_accumulation_steps": "auto",
                    "gradient_clipping": "auto",
                    "zero_allow_untested_optimizer": True,
                    "zero_optimization": {"stage": stage, "reduce_bucket_size": 100_000},
                }
            )
        )
        return {**TWO, "compute__engine_config": str(file)}

    return make


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_an_adapter_learns_what_it_does_in_one_process(
    recipe: Recipes, shared: Callable[[int], dict[str, object]], stage: int
) -> None:
    one = ftkit.start(recipe(training__gradient_accumulation_steps=4)).wait(300)
    two = ftkit.start(recipe(training__gradient_accumulation_steps=2, **shared(stage))).wait(300)
    assert_alike(one, two, 1e-4)
    assert f"ZeRO-{stage} over 2 processes" in two.facts["fast"]
    assert manifest.fault(two.path / "adapter", thorough=True) is None


@pytest.mark.slow
def test_full_training_is_stopped_and_goes_on(
    recipe: Recipes, shared: Callable[[int], dict[str, object]]
) -> None:
    full = {
        "method": {"type": "full"},
        "training__learning_rate": 1e-3,
        "training__weight_decay": 0.1,
        "training__evals": 0,
        "training__max_steps": 60,
    }
    whole = ftkit.start(recipe(**full, training__gradient_accumulation_steps=2)).wait(300)
    run = ftkit.start(recipe(**full, **shared(2)))
    until(lambda: run.progress.step >= 2)
    all_of_them = processes(run)
    run.stop()
    run.wait(60)
    assert run.status == "stopped"
    until(lambda: gone(all_of_them), 20)
    run.resume().wait(300)
    assert_alike(run, whole, 1e-3)


@pytest.mark.slow
def test_it_is_rolled_back_by_all(
    recipe: Recipes,
    shared: Callable[[int], dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SPOILT)
    monkeypatch.syspath_prepend(tmp_path)
    changes = {"training__on_bad_loss": "roll_back", "training__lr_scheduler": "constant"}
    run = ftkit.start(recipe(**shared(2), **changes, training__warmup=0))
    run.wait(300)
    assert_rolled_back_twice(run)
