"""The Model panel: source, method, memory; nothing heavy is imported for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftkit.errors import ModelError
from ftkit.ui import ModelPanel, Workspace


def test_memory_is_estimated_and_follows_the_recipe() -> None:
    panel = ModelPanel()
    panel.wait()
    small = panel.estimate
    assert small is not None
    assert small.verdict in panel._machine.value
    panel.workspace.edit({"training.batch_size": 4096, "method": "full"})
    panel.wait()
    assert panel.estimate is not None
    assert panel.estimate.peak_gb > 10 * small.peak_gb
    assert panel.estimate.verdict == "will not fit"
    assert "helps most" in panel._machine.value


def test_the_rows_that_were_counted_make_the_estimate_better() -> None:
    panel = ModelPanel(Workspace(row_tokens=777))
    panel.wait()
    assert "777 tokens" in panel._machine.value


def test_a_local_model_is_found_and_a_missing_one_said_to_be_missing(
    tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    panel = ModelPanel()
    panel.choose(str(tiny_model_folder()))
    panel.wait()
    assert panel._kind.value == "local"
    assert "on this machine" in panel._place.value
    panel.choose(f"{tmp_path}/<b>nope")
    panel.wait()
    assert "not found" in panel._place.value
    assert "&lt;b&gt;nope" in panel._machine.value
    assert panel._fetch.layout.display == "none"


def test_changing_the_kind_asks_and_comes_back_to_what_was_typed() -> None:
    panel = ModelPanel()
    panel._kind.value = "hub"
    assert panel.workspace.recipe.model.source == "starter"
    assert panel._source.control.value == ""
    assert "Still starter" in panel._about.value
    assert len(panel.search._list.options) > 100
    panel.workspace.edit({"method.rank": 4})
    assert panel._kind.value == "hub"
    panel._source.control.value = "org/name"
    panel._kind.value = "starter"
    assert panel.workspace.recipe.model.source == "starter"
    panel._kind.value = "hub"
    assert panel.workspace.recipe.model.source == "org/name"


def test_a_suggestion_is_taken() -> None:
    panel = ModelPanel()
    panel._kind.value = "hub"
    assert "Qwen/Qwen2.5-0.5B-Instruct" in panel.search.find("qwen2.5 0.5B")
    panel.search._list.value = "Qwen/Qwen2.5-0.5B-Instruct"
    assert "Apache-2.0" in panel.search._facts.value
    assert "in 4bit" in panel.search._facts.value
    assert panel.workspace.recipe.model.source == "starter", "marking is not taking"
    panel.search._use.click()
    assert panel.workspace.recipe.model.source == "Qwen/Qwen2.5-0.5B-Instruct"
    assert "494 M parameters" in panel._about.value


def test_fetching_says_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> None:
        raise ModelError("The Hub is <gone>.", "Check the network.")

    monkeypatch.setattr("ftkit.models.resolve", resolve)
    panel = ModelPanel()
    panel.fetch()
    panel.wait()
    assert "The Hub is &lt;gone&gt;." in panel._progress.value
    assert "Check the network." in panel._progress.value


def test_opening_the_lab_loads_nothing_heavy() -> None:
    code = (
        "import sys, ftkit, ipywidgets; lab = ftkit.Lab(); lab.model.wait(); lab.train; "
        "print([m for m in ('torch', 'transformers', 'pandas', 'plotly') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_does_not_fit_is_made_to(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from ftkit.models import device

    here = dataclasses.replace(device._cpu(), native_bf16=True, memory_gb=3.0, free_gb=2.2)
    monkeypatch.setattr(sys.modules["ftkit.models.estimate"], "probe", lambda kind: here)
    panel = ModelPanel(Workspace(row_tokens=600))
    panel.workspace.edit({"training.batch_size": 64})
    panel.wait()
    assert panel._fit_button.layout.display is None
    panel._fit_button.click()
    panel.wait()
    panel.wait()
    training = panel.workspace.recipe.training
    assert training.batch_size * training.gradient_accumulation_steps == 64
    assert training.batch_size < 64
    assert "Chosen: training.batch_size" in panel._fitted.value
    assert panel._fit_button.layout.display == "none"
