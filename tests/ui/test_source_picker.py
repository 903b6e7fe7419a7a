"""Files nearby, rows of the notebook, uploads and mixtures, chosen by clicking."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from ftkit.data import readers, sources
from ftkit.errors import DataError
from ftkit.recipe import Recipe
from ftkit.ui import DataPanel, Workspace, nearby, preview

ROWS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(12)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A notebook's folder with this and that in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTKIT_CACHE", str(tmp_path / ".cache"))
    for name in ("b.jsonl", "data/a.csv.gz", "data/deep/c.json", "runs/x/rows.jsonl", ".hidden/d.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "requirements.txt").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text("")
    (tmp_path / "mine" / "events.jsonl").write_text("")
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "e.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    entry = {"file_name": "e.jsonl", "columns": {"prompt": "prompt", "response": "completion"}}
    (tmp_path / "listed" / "dataset_info.json").write_text(json.dumps({"chats": entry}))
    return tmp_path


@pytest.fixture
def panel(folder: Path, tiny_model_folder: Callable[..., Path]) -> DataPanel:
    return DataPanel(Workspace(Recipe(model=str(tiny_model_folder()), data={"source": "b.jsonl"}))).wait()


def choose(panel: DataPanel, label: str) -> None:
    place = next(place for text, place in panel.picker.found.options if text.startswith(label))
    panel.picker.found.value = place
    panel.picker.wait()
    panel.wait()


def test_data_nearby_is_listed_and_settings_and_runs_are_not(folder: Path) -> None:
    found = [(one.source, one.subset) for one in nearby.files()]
    assert found == [
        ("b.jsonl", None),
        ("data/a.csv.gz", None),
        ("listed", "chats"),
        ("data/deep/c.json", None),
    ]


def test_folders_beside_the_notebook_s_are_looked_into(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = folder / "course" / "week1"
    inner.mkdir(parents=True)
    (folder / "shared").mkdir()
    (folder / "listed").rename(folder / "shared" / "data")
    monkeypatch.chdir(inner)
    found = [(one.source, one.subset) for one in nearby.files()]
    assert found == [(os.path.join("..", "..", "shared", "data"), "chats")]
    monkeypatch.chdir(folder / "course")
    assert os.path.join("..", "data", "a.csv.gz") in [one.source for one in nearby.files()]


def test_before_anything_is_chosen_the_panel_says_what_to_do(panel: DataPanel, folder: Path) -> None:
    assert panel.picker._empty.value == ""
    panel.choose("starter:persona").wait()
    panel.picker._typed.clear()
    panel.picker.kind.value = "file"
    panel.picker.wait()
    assert "Nothing is chosen yet" in panel.picker._empty.value
    assert "starter:persona" in panel.picker._empty.value
    assert panel._reload.layout.display == "none"
    assert panel.picker.field.control.options == ("b.jsonl", "data/a.csv.gz", "data/deep/c.json")
    panel.picker.field.control.value = "b.jsonl"
    panel.wait()
    assert panel.picker._empty.value == ""
    assert panel._reload.layout.display is None
    assert panel.dataset.origin == "b.jsonl"


def test_a_home_folder_full_of_files_is_not_searched_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearby, "_LOOKED_AT", 3)
    assert [one.source for one in nearby.files()] == ["b.jsonl"]
    monkeypatch.setattr(nearby, "MOST", 1)
    assert len(nearby.files()) == 1


def test_a_dataset_of_a_listing_is_chosen_with_its_name(panel: DataPanel) -> None:
    panel.picker.wait()
    choose(panel, "chats in listed")
    assert (panel.workspace.recipe.data.source, panel.workspace.recipe.data.subset) == ("listed", "chats")
    assert len(panel.dataset.train) == 11
    panel.choose("b.jsonl").wait()
    assert panel.workspace.recipe.data.subset is None


def test_rows_of_the_notebook_are_offered_and_kept(panel: DataPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = SimpleNamespace(columns=1)
    space: dict[str, Any] = {"df": pd.DataFrame(ROWS[:7]), "rows": ROWS[:5], "x": 3, "odd": odd, "_1": ROWS}
    monkeypatch.setattr(nearby, "notebook_space", lambda: space)
    panel.picker.refresh()
    panel.picker.wait()
    labels = [text for text, _ in panel.picker.found.options]
    assert labels[1:3] == ["df: DataFrame of 7 rows", "rows: list of 5 rows"]
    choose(panel, "df")
    assert len(panel.dataset.train) + len(panel.dataset.held_out) == 7
    source = panel.workspace.recipe.data.source
    assert Path(source).name.startswith("df-")
    assert panel.picker.kind.value == "file"
    del space["df"]
    assert panel.load() is None
    panel.wait()


def test_what_is_uploaded_is_shown_at_once(panel: DataPanel, folder: Path) -> None:
    for name in ("x.jsonl", "y.jsonl"):
        (folder / name).write_text("\n".join(map(json.dumps, ROWS)))
    panel.picker.upload._on_files([Path("x.jsonl"), Path("y.jsonl")])
    panel.wait()
    assert panel.workspace.recipe.data.source == "x.jsonl"
    assert len(panel.dataset.train) + len(panel.dataset.held_out) == 24
    assert "x.jsonl + y.jsonl" in panel._summary.value


def test_datasets_are_added_weighed_and_removed(panel: DataPanel) -> None:
    mixture = panel._mixture()
    assert mixture.listed.children == ()
    mixture.add.click()
    assert "Name a file" in mixture.wrong.value
    mixture.source.value = "starter:persona"
    mixture.add.click()
    panel.wait()
    recipe = panel.workspace.recipe
    assert [one.source for one in recipe.data.mixed_with] == ["starter:persona"]
    assert len(panel.dataset.parts) == 2
    mixture.how.value = "interleave_under"
    mixture.listed.children[1].children[1].value = 3.0
    assert panel.workspace.recipe.data.mixed_with[0].weight == 3.0
    mixture.listed.children[0].children[1].value = -1
    assert "greater than 0" in mixture.wrong.value
    mixture.how.value = "concat"
    assert panel.workspace.recipe.data.mixed_with[0].weight == 1.0
    mixture.listed.children[1].children[2].click()
    assert panel.workspace.recipe.data.mixed_with == ()
    assert panel.wait().dataset.origin == "b.jsonl"


def test_the_first_rows_of_a_large_file_are_shown_while_the_others_are_read(
    panel: DataPanel, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr(sources, "LARGE", 10)
    monkeypatch.setattr("ftkit.ui.preview.FIRST_ROWS", 5)
    shown = []
    first_rows = panel._first_rows
    panel._first_rows = lambda dataset: (first_rows(dataset), shown.append(panel._summary.value))  # type: ignore[method-assign, func-returns-value, assignment, return-value]
    panel.load()
    panel.wait()
    assert "The first 4 rows of b.jsonl; the others are being read" in shown[0] or "The first 5" in shown[0]
    assert len(panel.dataset.train) + len(panel.dataset.held_out) == 12
    assert "being read" not in panel._summary.value


def test_cancel_ends_the_work_itself(panel: DataPanel, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(path: Path) -> Any:
        try:
            while True:
                begun.set()
                yield ROWS[0]
        finally:
            ended.set()

    monkeypatch.setitem(readers.READERS, ".jsonl", endless)
    panel.load()
    assert begun.wait(10)
    panel.cancel()
    assert ended.wait(10)
    assert panel.dataset.origin == "b.jsonl", "the rows read before stay"
    assert "was cancelled" in panel._message.value
    assert panel._cancel.layout.display == "none"
    monkeypatch.undo()
    panel._recount.click()
    panel.wait()
    assert panel.counts.rows == 11
    assert panel._tokens_row.layout.display == "none"


def test_cancel_ends_the_counting_which_can_be_taken_up_again(
    panel: DataPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(*arguments: Any) -> Any:
        try:
            while True:
                arguments[-1]("Tokens", 0.5)
                begun.set()
        finally:
            ended.set()

    monkeypatch.setattr(preview, "count", endless)
    panel.load()
    assert begun.wait(10)
    assert panel._cancel.layout.display is None
    panel._cancel.click()
    assert ended.wait(10)
    assert panel.counts is None
    assert "not counted" in panel._tokens_note.value
    monkeypatch.undo()
    panel._recount.click()
    panel.wait()
    assert panel.counts.rows == 11


def test_what_was_counted_of_other_rows_is_not_said_of_these(
    panel: DataPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "11 rows," in panel._summary.value
    waiting = threading.Event()
    monkeypatch.setattr(preview, "count", lambda *_: waiting.wait(10) and 1 / 0)
    panel.choose("starter:persona")
    panel._loading.wait(30)
    assert "starter:persona" in panel._summary.value
    assert "tokens," not in panel._summary.value
    waiting.set()
    panel.wait()


def test_first_rows_go_when_the_others_do_not_come(
    panel: DataPanel, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / "broken.jsonl").write_text("\n".join([*map(json.dumps, ROWS), "{"]))
    monkeypatch.setattr(sources, "LARGE", 10)
    monkeypatch.setattr("ftkit.ui.preview.FIRST_ROWS", 5)
    with pytest.raises(DataError, match="line 13"):
        panel.choose("broken.jsonl").wait()
    assert "being read" not in panel._summary.value
    assert "b.jsonl" in panel._summary.value
    assert len(panel.browser.examples) == 11
