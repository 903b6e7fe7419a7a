"""Runs start at once, can be steered, leave a true folder, and say why they failed."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ftkit
from ftkit.errors import RunError
from tests.waiting import up_to

until = up_to(60)


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> Callable[..., ftkit.Recipe]:
    def make(**changes: Any) -> ftkit.Recipe:
        base = ftkit.Recipe(
            model=str(tiny_model_folder()),
            data={"source": "starter:extract", "max_rows": 32, "eval_rows": 8},
            training={"max_steps": 6, "batch_size": 4, "evals": 2, "learning_rate": 1e-2},
            output={"folder": tmp_path / "runs"},
        )
        return base.replace({key.replace("__", "."): value for key, value in changes.items()})

    return make


def test_a_run_trains_saves_and_is_found_again(recipe: Callable[..., ftkit.Recipe]) -> None:
    short = recipe(training__max_steps=12)
    begun = time.perf_counter()
    run = ftkit.start(short)
    assert time.perf_counter() - begun < 5.0
    run.wait(120)
    metrics = run.metrics
    assert metrics["loss"].dropna().iloc[-1] < metrics["loss"].dropna().iloc[0]
    assert metrics["eval_loss"].notna().sum() >= 2
    assert (run.path / "adapter" / "adapter_model.safetensors").is_file()
    assert (run.path / "adapter" / "chat_template.jinja").is_file()
    assert not [path for path in run.path.rglob("*") if path.name == "training_args.bin"], "a pickle"
    assert any(path.name == "adapter_model.safetensors" for path in (run.path / "checkpoints").rglob("*"))
    assert ftkit.Recipe.from_yaml(run.path / "recipe.yaml") == run.recipe
    assert json.loads((run.path / "environment.json").read_text())["device"] in {"cpu", "cuda"}
    assert [found.name for found in ftkit.list_runs(run.path.parent)] == [run.name]


def test_pause_holds_the_steps_and_stop_saves(recipe: Callable[..., ftkit.Recipe]) -> None:
    run = ftkit.start(recipe(training__max_steps=2000, training__evals=0))
    until(lambda: run.progress.step >= 2)
    run.pause()
    until(lambda: run.status == "paused")
    step = run.progress.step
    time.sleep(0.3)
    assert run.progress.step == step
    run.resume()
    until(lambda: run.progress.step > step)
    run.stop()
    run.wait(60)
    assert run.status == "stopped"
    assert (run.path / "adapter").is_dir()
    stopped_at = run.progress.step
    run.resume()
    until(lambda: run.progress.step > stopped_at)
    run.stop()
    assert asyncio.run(_awaited(run)).status == "stopped"


async def _awaited(run: ftkit.Run) -> ftkit.Run:
    return await run


def test_a_second_run_waits_its_turn(recipe: Callable[..., ftkit.Recipe]) -> None:
    first = ftkit.start(recipe(training__max_steps=2000, training__evals=0))
    second = ftkit.start(recipe())
    until(lambda: first.progress.step >= 1)
    assert second.status == "queued"
    first.stop()
    second.wait(120)
    assert second.status == "finished"


def test_a_failure_reaches_wait_and_the_folder(recipe: Callable[..., ftkit.Recipe]) -> None:
    run = ftkit.start(recipe(data__source="missing.jsonl"))
    with pytest.raises(RunError, match=r"missing\.jsonl"):
        run.wait(60)
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.advice
    assert "Traceback" in run.error.traceback


def test_a_taken_name_is_refused(recipe: Callable[..., ftkit.Recipe]) -> None:
    ftkit.start(recipe(output__name="mine")).wait(120)
    with pytest.raises(RunError, match="already a run"):
        ftkit.start(recipe(output__name="mine"))


def test_a_run_whose_process_is_gone_is_interrupted(tmp_path: Path) -> None:
    folder = tmp_path / "lost"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(ftkit.Recipe().to_yaml())
    state = {"time": 1.0, "kind": "state", "state": "running", "detail": None, "error": None}
    (folder / "events.jsonl").write_text(json.dumps(state) + '\n{"torn')
    run = ftkit.attach(folder)
    assert run.status == "interrupted"
    with pytest.raises(RunError, match="process"):
        run.wait()


def test_a_run_is_kept_while_it_goes_on_and_no_longer(recipe: Callable[..., ftkit.Recipe]) -> None:
    run = ftkit.start(recipe(training__max_steps=2000, training__evals=0))
    path, kept = run.path, weakref.ref(run)
    until(lambda: ftkit.attach(path).loaded is not None)
    del run
    gc.collect()
    again = ftkit.attach(path)
    assert again is kept(), "it goes on: whoever attaches gets it, with its live model"
    model = weakref.ref(again.open_model().model)
    again.stop()
    again.wait(60)
    del again
    until(lambda: gc.collect() >= 0 and kept() is None)
    assert model() is None
    assert ftkit.attach(path).status == "stopped"


def test_attaching_to_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        ftkit.attach(tmp_path / "nothing")


def test_a_run_without_memory_names_its_longest_row_and_what_would_save_how_much(
    tiny_model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftkit.train import trainer

    def none_left(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(trainer, "run_trainer", none_left)
    recipe = ftkit.Recipe(model=str(tiny_model_folder()), output={"folder": tmp_path})
    monkeypatch.setattr(
        "ftkit.models.fitting.savings",
        lambda recipe, row_tokens: [f"with rows of {row_tokens} training.batch_size 4 saves about 1.0 GB;"],
    )
    run = ftkit.start(recipe)
    with pytest.raises(ftkit.errors.RunError):
        run.wait()
    assert "not enough memory" in run.error.message
    found = re.search(r"The longest row, row \d+, has (\d+) tokens", run.error.advice)
    assert found is not None
    assert f"with rows of {found[1]} training.batch_size 4 saves about 1.0 GB" in run.error.advice
