"""A model split over two processes by FSDP2 learns what a whole one does, and its folder is the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

import ftkit
from ftkit import manifest
from ftkit.errors import RunError
from ftkit.runs.folder import RunFolder
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

until = up_to(300)


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> Recipes:
    return recipes(tiny_model_folder(), tmp_path / "runs")


@pytest.fixture
def split(tmp_path: Path) -> dict[str, object]:
    """What a Recipe says for two processes with a share each."""
    file = tmp_path / "fsdp.yaml"
    file.write_text(
        "compute_environment: LOCAL_MACHINE\n"
        "distributed_type: FSDP\n"
        "fsdp_config:\n"
        "  fsdp_version: 2\n"
        "  fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer\n"
        "num_processes: 2\n"
    )
    return {**TWO, "compute__engine_config": str(file)}


@pytest.mark.slow
def test_an_adapter_on_a_split_model_learns_what_it_does_on_a_whole_one(
    recipe: Recipes, split: dict[str, object]
) -> None:
    again = {"compute__gradient_checkpointing": "layers"}
    one = ftkit.start(recipe(training__gradient_accumulation_steps=4, **again)).wait(300)
    two = ftkit.start(recipe(training__gradient_accumulation_steps=2, **split, **again)).wait(300)
    assert_alike(one, two, 1e-4)
    assert "FSDP2 over 2 processes" in two.facts["fast"]
    assert any("lora, mlp, norms" in event.get("text", "") for event in two.events())
    assert manifest.fault(two.path / "adapter", thorough=True) is None
    newest = two.path / "checkpoints" / "checkpoint-7"
    theirs = one.path / "checkpoints" / "checkpoint-7"
    mine, whole = (load_file(folder / "training_state.safetensors") for folder in (newest, theirs))
    shapes = [{name: value.shape for name, value in state.items()} for state in (mine, whole)]
    assert all(shapes[0].get(name) == shape for name, shape in shapes[1].items()), "whole, not shares"
    assert two.open_model().adapted


@pytest.mark.slow
def test_full_training_is_paused_stopped_and_goes_on_split_or_whole(
    recipe: Recipes, split: dict[str, object]
) -> None:
    full = {
        "method": {"type": "full"},
        "training__learning_rate": 1e-3,
        "training__evals": 0,
        "training__max_steps": 60,
    }
    one_process = recipe(**full, training__gradient_accumulation_steps=2)
    whole = ftkit.start(one_process).wait(300)
    run = ftkit.start(recipe(**full, **split))
    until(lambda: run.progress.step >= 2)
    run.pause()
    until(lambda: run.status == "paused")
    at = run.progress.step
    run.resume()
    until(lambda: run.progress.step > at)
    all_of_them = processes(run)
    assert len(all_of_them) == 3
    run.stop()
    run.wait(60)
    assert run.status == "stopped"
    until(lambda: gone(all_of_them), 20)
    stopped_at = run.progress.step
    assert 2 < stopped_at < 60
    assert manifest.fault(run.path / "checkpoints" / f"checkpoint-{stopped_at}", thorough=True) is None
    copy = run.path.with_name("copy")
    shutil.copytree(run.path, copy)
    run.resume().wait(300)
    assert run.status == "finished"
    assert_alike(run, whole, 1e-3)
    RunFolder.open(copy).write("recipe.yaml", one_process.to_yaml())
    assert_alike(ftkit.attach(copy).resume().wait(300), whole, 1e-3)


@pytest.mark.slow
def test_a_split_model_is_rolled_back_by_all(
    recipe: Recipes, split: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SPOILT)
    monkeypatch.syspath_prepend(tmp_path)
    changes = {"training__on_bad_loss": "roll_back", "training__lr_scheduler": "constant"}
    run = ftkit.start(recipe(**split, **changes, training__warmup=0))
    run.wait(300)
    assert_rolled_back_twice(run)


@pytest.mark.slow
def test_a_class_that_the_model_has_not_is_named_with_the_one_that_it_has(
    recipe: Recipes, split: dict[str, object], tmp_path: Path
) -> None:
    file = tmp_path / "other.json"
    file.write_text(json.dumps({"transformer_layer_cls_to_wrap": ["GPT2Block"]}))
    run = ftkit.start(recipe(**split | {"compute__engine_config": str(file)}))
    with pytest.raises(RunError, match="GPT2Block: LlamaForCausalLM has none"):
        run.wait(300)
    assert run.error is not None
    assert "LlamaDecoderLayer" in run.error.advice


def test_a_file_that_is_wrong_ends_the_run_before_a_process_starts(
    recipe: Recipes, split: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "fsdp.yaml").write_text("distributed_type: FSDP\nfsdp_confg: {}\n")
    run = ftkit.start(recipe(**split))
    with pytest.raises(RunError, match="did you mean 'fsdp_config'"):
        run.wait(60)
    assert not any(event["kind"] == "stage" for event in run.events())
