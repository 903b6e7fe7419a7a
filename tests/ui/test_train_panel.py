"""The Train panel: one run at a time, plain messages, and a real run of a tiny model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from ftkit.data import load
from ftkit.errors import RecipeError, RunError
from ftkit.recipe import Recipe, Training
from ftkit.runs.summary import Summary
from ftkit.ui import TrainPanel, Workspace
from ftkit.ui.panels import train

from .fake_run import FakeRun


@pytest.fixture
def panel(tmp_path: Path) -> Iterator[TrainPanel]:
    made = TrainPanel(Workspace(Recipe(output={"folder": tmp_path})))
    yield made
    made.close()


def _until(condition: Callable[[], object], timeout: float = 10.0) -> bool:
    end = time.monotonic() + timeout
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


def test_a_preset_fills_the_fields_and_is_recognised(panel: TrainPanel) -> None:
    panel.preset("quick look")
    assert panel.workspace.recipe.training.max_steps == 20
    assert panel._presets.value == "quick look"
    panel.workspace.edit({"training.epochs": 9})
    assert panel._presets.value is None
    panel._presets.value = "thorough"
    assert panel.workspace.recipe.method.rank == 32


def test_a_wrong_control_keeps_a_run_from_starting(
    panel: TrainPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftkit.runs.start", lambda recipe: pytest.fail("started"))
    panel.workspace.report("training.learning_rate", "'abc' is not a number.")
    with pytest.raises(RecipeError, match="Learning rate: 'abc' is not a number"):
        panel.start()
    panel._start.click()
    assert "Learning rate" in panel._message.value
    panel.workspace.report("training.learning_rate", None)
    assert panel._message.value == ""


@pytest.mark.parametrize(
    ("objective", "path", "value"),
    [("distillation", "teacher", "starter"), ("grpo", "rewards", ("json",))],
)
def test_what_no_default_can_fill_is_asked_for_before_anything_starts(
    panel: TrainPanel, monkeypatch: pytest.MonkeyPatch, objective: str, path: str, value: object
) -> None:
    monkeypatch.setattr("ftkit.runs.start", lambda recipe: pytest.fail("started"))
    panel.workspace.edit({"objective": objective})
    name = path.capitalize()
    with pytest.raises(RecipeError, match=f"{name} is empty"):
        panel.start()
    panel._start.click()
    assert f"{name} is empty" in panel._message.value
    assert not panel._start.disabled
    panel.workspace.edit({f"objective.{path}": value})
    assert panel._message.value == ""


def test_every_training_setting_has_one_place(panel: TrainPanel) -> None:
    placed = [path.split(".")[1] for path in train._FIRST if path.startswith("training.")]
    placed += [name for names in train._MORE.values() for name in names]
    assert sorted(placed) == sorted(Training.model_fields)


def test_start_pressed_twice_starts_one_run(panel: TrainPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[FakeRun] = []
    pressed = threading.Event()

    def start(recipe: Recipe) -> FakeRun:
        assert pressed.wait(30), "a click waits until the run has started"
        started.append(FakeRun())
        return started[-1]

    monkeypatch.setattr("ftkit.runs.start", start)
    panel._start.click()
    assert panel._start.disabled
    panel._start.click()
    assert "A run is going already" in panel._message.value
    pressed.set()
    assert _until(lambda: panel.run is not None)
    with pytest.raises(RunError, match="going already"):
        panel.start()
    assert len(started) == 1


def test_a_run_that_cannot_start_says_why_and_start_works_again(
    panel: TrainPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(recipe: Recipe) -> None:
        raise RunError("There is already a run at <runs>.", "Choose another output.name.")

    monkeypatch.setattr("ftkit.runs.start", start)
    with pytest.raises(RunError):
        panel.start()
    assert "&lt;runs&gt;" in panel._message.value
    assert not panel._start.disabled
    assert panel._progress.value == ""


def test_what_this_machine_cannot_do_is_refused_at_start(
    panel: TrainPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftkit.runs.start", lambda recipe: pytest.fail("started"))
    monkeypatch.setattr("ftkit.recipe.extras.find_spec", lambda name: None)
    panel.workspace.edit({"training.optimizer": "lion", "objective": {"type": "grpo", "rewards": ["json"]}})
    with pytest.raises(RecipeError, match="'lion' needs the package pytorch-optimizer"):
        panel.start()
    assert "objective.type: &#x27;grpo&#x27; needs the package trl" in panel._message.value
    assert not panel._start.disabled


def test_rows_that_do_not_suit_the_objective_are_said_before_start(panel: TrainPanel, tmp_path: Path) -> None:
    pair = {"prompt": "1 + 1?", "chosen": "2.", "rejected": "3."}
    rows = tmp_path / "pairs.jsonl"
    rows.write_text("\n".join(json.dumps(pair | {"prompt": f"{n} + 0?"}) for n in range(8)))
    workspace = panel.workspace
    workspace.remember(load(workspace.recipe.data), workspace.recipe.data)
    assert panel._misfit.value == ""
    panel.objective.choose("dpo")
    assert "It learns from pairs of a better and a worse reply." in panel._misfit.value
    workspace.edit({"data.source": str(rows)})
    assert panel._misfit.value == "", "not known before they are read"
    workspace.remember(load(workspace.recipe.data), workspace.recipe.data)
    assert panel._misfit.value == ""


def test_the_objective_is_chosen_here(panel: TrainPanel) -> None:
    panel.objective.choose("dpo")
    assert panel.workspace.recipe.objective.type == "dpo"
    assert panel._presets.value == "balanced", "its numbers are those of preferences now"


def test_the_buttons_follow_the_run(panel: TrainPanel) -> None:
    run = FakeRun()
    run.train(10)
    panel.workspace.run = run
    assert (panel._start.disabled, panel._pause.disabled, panel._stop.disabled) == (True, False, False)
    assert "10 / 100" in panel._progress.value
    assert 'role="progressbar"' in panel._progress.value
    panel._pause.click()
    assert _until(lambda: panel._pause.description == "Resume")
    panel._pause.click()
    assert _until(lambda: panel._pause.description == "Pause")
    assert run.asked == ["pause", "resume"]
    panel._stop.click()
    assert _until(lambda: panel._stop.disabled)
    run.status = "stopped"
    assert _until(lambda: not panel._start.disabled)
    assert panel._new.layout.display is None
    panel._new.click()
    assert panel.run is None
    assert panel._progress.value == ""


def test_a_failure_is_shown_with_advice_and_an_escaped_traceback(panel: TrainPanel) -> None:
    run = FakeRun()
    panel.workspace.run = run
    run.fail("The loss is <NaN>.", "Lower it.", "Traceback <b>")
    assert _until(lambda: "failed" in panel._progress.value)
    assert "&lt;NaN&gt;" in panel._progress.value
    assert "Lower it." in panel._progress.value
    assert "Traceback &lt;b&gt;" in panel._progress.value


def test_a_run_stopped_before_its_first_step_does_not_claim_to_be_saved(panel: TrainPanel) -> None:
    run = FakeRun()
    run.summary = Summary(detail="before the first step")
    run.status = "stopped"
    panel.workspace.run = run
    shown = panel._progress.value
    assert "Stopped: before the first step. There is no checkpoint to go on from" in shown
    assert "saved" not in shown
    assert "Loading the model" not in shown


def test_the_code_follows_the_recipe(panel: TrainPanel) -> None:
    panel._show_code.value = True
    panel.workspace.edit({"training.epochs": 7})
    assert "epochs=7" in panel._code.text
    assert panel._code.text == panel.code()
    panel._code_as.value = "YAML"
    assert Recipe.from_yaml(panel._code.text) == panel.workspace.recipe
    panel._code_as.value = "LLaMA-Factory"
    assert yaml.safe_load(panel._code.text)["stage"] == "sft"
    assert "# not said here: data.source" in panel._code.text


def test_saving_yaml_says_where_and_asks_before_overwriting(panel: TrainPanel, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    panel._path.value = str(path)
    panel._save.click()
    assert f"Saved {path}" in panel._saved.value
    panel.workspace.edit({"training.epochs": 7})
    panel._save.click()
    assert "Overwrite" in panel._saved.value
    assert Recipe.from_yaml(path).training.epochs == 2
    panel._save.click()
    assert Recipe.from_yaml(path).training.epochs == 7
    panel._path.value = str(tmp_path / "nowhere" / "recipe.yaml")
    panel._save.click()
    assert "cannot be written" in panel._saved.value
    with pytest.raises(RecipeError, match="is a folder"):
        panel.save_yaml(tmp_path)


def test_a_tiny_model_is_trained_for_real(
    panel: TrainPanel, tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"messages": messages}) for _ in range(12)))
    panel.workspace.edit(
        {
            "model.source": str(tiny_model_folder()),
            "data.source": str(rows),
            "training.max_steps": 3,
            "training.batch_size": 2,
            "training.evals": 1,
        }
    )
    run = panel.start()
    assert panel.run is run
    run.wait(120)
    assert _until(lambda: "Finished" in panel._progress.value)
    assert "3 / 3" in panel._progress.value
    assert not panel._start.disabled
