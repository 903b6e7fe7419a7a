"""A run that was ended and resumed equals one that was not, to the bit; every end leaves a true folder."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

import ftkit
from ftkit.errors import RunError
from tests.runs.several import gone
from tests.waiting import up_to

until = up_to(120)

Recipes = Callable[..., ftkit.Recipe]


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> Recipes:
    def make(**changes: Any) -> ftkit.Recipe:
        base = ftkit.Recipe(
            model=str(tiny_model_folder()),
            data={"source": "starter:extract", "max_rows": 32, "eval_rows": 8},
            method={"rank": 4, "dropout": 0.1},
            training={
                "max_steps": 12, "batch_size": 4, "evals": 2, "checkpoints": 3, "learning_rate": 1e-2
            },
            compute={"dtype": "float32", "device": "cpu"},
            output={"folder": tmp_path / "runs"},
        )  # fmt: skip
        return base.replace({key.replace("__", "."): value for key, value in changes.items()})

    return make


def weights(run: ftkit.Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "adapter" / "adapter_model.safetensors")


def same(one: ftkit.Run, other: ftkit.Run) -> bool:
    first, second = weights(one), weights(other)
    losses = [run.metrics.loss.dropna().tolist() for run in (one, other)]
    return losses[0] == losses[1] and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("launch", ["thread", "process"])
def test_a_stopped_and_resumed_run_equals_one_that_was_not(recipe: Recipes, launch: str) -> None:
    whole = ftkit.start(recipe()).wait(120)
    run = ftkit.start(recipe(compute__launch=launch))
    until(lambda: run.progress.step >= 5)
    run.stop()
    run.wait(60)
    if run.status == "stopped":  # it may have been at its last step
        assert 5 <= run.progress.step < 12
        run.resume().wait(120)
    assert run.status == "finished"
    assert same(run, whole)
    tokens = [[e for e in one.events() if e["kind"] == "train"][-1]["tokens"] for one in (run, whole)]
    assert tokens[0] == tokens[1], "a resumed run counts on"


def test_a_killed_process_is_resumed_from_its_last_sound_checkpoint(recipe: Recipes) -> None:
    whole = ftkit.start(recipe()).wait(120)
    run = ftkit.start(recipe(compute__launch="process"))
    until(lambda: any(event["kind"] == "checkpoint" for event in run.events()))
    owner = json.loads((run.path / "process.json").read_text())
    os.kill(owner["pid"], signal.SIGKILL)
    until(lambda: run.status == "interrupted")
    until(lambda: any("SIGKILL" in event.get("text", "") for event in run.events()))
    with pytest.raises(RunError, match="is gone"):
        run.wait()
    newest = max((run.path / "checkpoints").glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    (newest / "training_state.safetensors").write_bytes(b"damaged")
    run.resume().wait(120)
    assert run.status == "finished"
    assert any("is damaged" in event.get("text", "") for event in run.events())
    assert same(run, whole)


def test_a_run_outlives_the_kernel_that_started_it(recipe: Recipes, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    recipe(compute__launch="process", training__max_steps=3000, training__evals=0).to_yaml(file)
    script = f"import ftkit, os; print(ftkit.start({str(file)!r}).path, flush=True); os._exit(0)"
    kernel = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    run = ftkit.attach(kernel.stdout.strip())
    until(lambda: run.progress.step >= 3)
    assert run.status == "running"
    with pytest.raises(RunError, match="carried out by another"):
        run_again(run.path)
    tree = psutil.Process(json.loads((run.path / "process.json").read_text())["pid"])
    run.pause()
    until(lambda: run.status == "paused")
    run.resume()
    run.stop()
    run.wait(60)
    assert run.status == "stopped"
    until(lambda: gone([tree]), 20)
    assert (run.path / "adapter").is_dir()


def run_again(path: Path) -> None:
    """What a second process that is told to carry out the same run does."""
    from ftkit.runs.folder import RunFolder

    with RunFolder.open(path).carried_out():
        pass


def test_a_process_that_does_not_end_is_ended_with_its_children(
    recipe: Recipes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ftkit.runs import process
    from ftkit.runs.folder import RunFolder

    script = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    stubborn = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert stubborn.stdout is not None
    assert stubborn.stdout.readline() == b"ready\n"
    tree = [psutil.Process(stubborn.pid), *psutil.Process(stubborn.pid).children(recursive=True)]
    assert len(tree) == 2
    folder = RunFolder.create(recipe())
    folder.log.append("state", state="running", detail=None, error=None)
    folder.claim(stubborn.pid, "process")
    monkeypatch.setattr(process, "POLITE", 0.2)
    monkeypatch.setattr(process, "TERMINATE", 0.5)
    run = ftkit.attach(folder.path)
    run.stop()
    until(lambda: run.status == "stopped", 20)
    stubborn.wait()
    assert not any(one.is_running() for one in tree)
    assert "was ended" in [e for e in run.events() if e["kind"] == "state"][-1]["detail"]


def test_a_run_in_another_kernel_is_not_ended_by_force(recipe: Recipes) -> None:
    from ftkit.runs.folder import RunFolder
    from ftkit.runs.process import see_to_its_end

    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        folder = RunFolder.create(recipe())
        folder.claim(other.pid, "thread")
        see_to_its_end(folder, 0.0)
        time.sleep(0.3)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_it_saves_before_its_time_limit(recipe: Recipes, monkeypatch: pytest.MonkeyPatch) -> None:
    from ftkit.runs import launch

    monkeypatch.setattr(launch, "MARGIN", 0.0)
    begun = time.monotonic()
    run = ftkit.start(recipe(training__max_steps=100_000, training__evals=0, training__time_limit=0.25))
    run.wait(60)
    assert run.status == "stopped"
    assert 5 < time.monotonic() - begun < 55
    assert "time limit of 0.25 minutes" in [e for e in run.events() if e["kind"] == "state"][-1]["detail"]
    assert run.progress.step > 0
    assert (run.path / "checkpoints" / f"checkpoint-{run.progress.step}").is_dir()


def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_do(recipe: Recipes) -> None:
    run = ftkit.start(
        recipe(training__learning_rate=1.0, training__max_grad_norm=0, training__optimizer="sgd")
    )
    bad = recipe(training__learning_rate=1.0)
    run.stop()
    run.wait(60)
    assert bad.training.on_bad_loss == "stop"


def test_a_bad_loss_rolls_back_to_the_last_good_checkpoint_at_a_lower_rate(
    recipe: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftkit.train import trainer

    real, calls = trainer.FtkitTrainer.compute_loss, itertools.count(1)

    def spoilt(self: Any, *given: Any, **more: Any) -> Any:
        loss = real(self, *given, **more)
        return loss * float("nan") if next(calls) in (7, 10) else loss

    monkeypatch.setattr(trainer.FtkitTrainer, "compute_loss", spoilt)
    run = ftkit.start(
        recipe(training__on_bad_loss="roll_back", training__lr_scheduler="constant", training__warmup=0)
    )
    run.wait(120)
    assert run.status == "finished"
    said = [event["text"] for event in run.events() if "Back to step" in event.get("text", "")]
    assert len(said) == 2
    rates = run.metrics.learning_rate.dropna()
    assert rates.iloc[-1] == pytest.approx(1e-2 / 9)
    assert run.metrics.loss.notna().sum() == 12
    assert all(bool(torch.isfinite(weight).all()) for weight in weights(run).values())


def test_a_run_that_keeps_going_wrong_fails_with_its_reason(
    recipe: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftkit.train import trainer

    real = trainer.FtkitTrainer.compute_loss
    monkeypatch.setattr(
        trainer.FtkitTrainer, "compute_loss", lambda *given, **more: real(*given, **more) * float("nan")
    )
    for on_bad_loss in ("stop", "roll_back"):
        run = ftkit.start(recipe(training__on_bad_loss=on_bad_loss))
        with pytest.raises(RunError, match="loss became nan"):
            run.wait(120)
        assert run.status == "failed"
        assert run.error is not None
        assert "learning_rate" in run.error.advice
