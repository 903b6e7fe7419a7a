"""Ray Train's workers carry a run out, on this machine; skipped where Ray is not installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import ftkit
from ftkit.runs import on_ray
from ftkit.runs.folder import RunFolder
from ftkit.runs.ranks import Part
from tests.runs.several import gone
from tests.waiting import up_to

until = up_to(300)


def recipe_of(model: Path, folder: Path) -> ftkit.Recipe:
    return ftkit.Recipe(
        model=str(model),
        data={"source": "starter:extract", "max_rows": 18, "eval_rows": 6},
        method={"rank": 4},
        training={"max_steps": 300, "batch_size": 4, "evals": 2, "learning_rate": 1e-3},
        compute={"dtype": "float32", "device": "cpu"},
        output={"folder": folder},
    )


def weights(run: ftkit.Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "adapter" / "adapter_model.safetensors")


@pytest.mark.slow
def test_two_workers_are_stopped_resumed_and_equal_one_process(
    tmp_path: Path, tiny_model_folder: Callable[..., Path]
) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "ftkit[ray]"')
    recipe = recipe_of(tiny_model_folder(), tmp_path)
    whole = ftkit.start(recipe.replace({"training.gradient_accumulation_steps": 2})).wait(300)
    run = ftkit.start(recipe.replace({"compute.launch": "ray", "compute.processes": 2}))
    until(lambda: run.progress.step >= 2)
    over = psutil.Process(json.loads((run.path / "process.json").read_text())["pid"])
    all_of_them = [over, *over.children(recursive=True)]
    assert not any(
        one.laddr.ip.removeprefix("::ffff:") != "127.0.0.1"
        for process in all_of_them
        if "ray" in process.name() or "gcs" in process.name()
        for one in process.net_connections()
        if one.status == psutil.CONN_LISTEN and "worker" not in process.name().lower()
    )
    run.stop()
    run.wait(60)
    assert run.status == "stopped"
    until(lambda: gone(all_of_them), 60)
    run.resume().wait(400)
    assert run.status == "finished"
    mine, theirs = weights(run), weights(whole)
    assert max((mine[name] - theirs[name]).abs().max().item() for name in mine) < 1e-4
    assert run.eval_loss == pytest.approx(whole.eval_loss, abs=1e-5)
    assert not (run.path / ".ray").exists()


def test_without_ray_the_run_says_what_to_install(
    tmp_path: Path, tiny_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "find_spec", lambda _: None)
    folder = RunFolder.create(recipe_of(tiny_model_folder(), tmp_path))
    carrying = on_ray.CarryingByRay(folder)
    with pytest.raises(ftkit.errors.RunError, match="not installed") as error:
        carrying.run_ranks(2, Part(folder.path))
    assert "ftkit[ray]" in error.value.advice
