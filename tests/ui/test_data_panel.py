"""The Data panel: rows, refusals, tokens; a failure keeps what was shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftkit.data import Conversation, Message, Template, encode, load
from ftkit.errors import DataError
from ftkit.recipe import Recipe
from ftkit.ui import DataPanel, Workspace
from ftkit.ui.form import Field


def _turns(asked: str, answer: str | None) -> dict:
    messages = [{"role": "user", "content": asked}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return {"messages": messages}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Twenty rows, one of them without an answer, one that looks like HTML."""
    made = [_turns(f"Question {number}", f"Answer {number}") for number in range(18)]
    made += [_turns("<img src=x onerror=alert(1)>", "<b>bold</b>"), _turns("No answer", None)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in made))
    return path


@pytest.fixture
def panel(tiny_model_folder: Callable[..., Path], rows: Path) -> DataPanel:
    recipe = Recipe(model=str(tiny_model_folder()), data={"source": str(rows), "held_out_fraction": 0.1})
    return DataPanel(Workspace(recipe)).wait()


def test_rows_are_counted_and_refusals_named(panel: DataPanel) -> None:
    assert len(panel.dataset.train) == 17
    assert len(panel.dataset.held_out) == 2
    assert "17 to train on" in panel._summary.value
    assert "2 held out" in panel._summary.value
    assert "1 refused" in panel._summary.value
    assert '<td class="ftk-n">19</td>' in panel._refused.value
    assert panel.workspace.is_current()


def test_the_tokens_shown_are_the_tokens_trained(panel: DataPanel) -> None:
    from transformers import AutoTokenizer

    template = Template(AutoTokenizer.from_pretrained(panel.workspace.recipe.model.source))
    for row in (0, 5):
        panel.show(row)
        example = panel.dataset.train[row]
        encoded = encode(example, template, panel.workspace.recipe.objective)
        assert [token["id"] for token in panel.browser.view.tokens] == encoded.ids.tolist()
        assert [token["trained"] for token in panel.browser.view.tokens] == encoded.mask.tolist()
    assert panel.counts.rows == 17
    assert 0 < panel.counts.trained < panel.counts.tokens
    assert "tokens" in panel._summary.value
    assert panel.workspace.row_tokens == panel.counts.mean


def test_what_comes_from_the_data_is_escaped(panel: DataPanel) -> None:
    page = ""
    for part in ("train", "held_out"):
        for row in range(len(getattr(panel.dataset, part))):
            panel.show(row, part)
            page += panel._summary.value + panel._refused.value + panel.browser.narrowed.value
    assert "<img" not in page
    assert "<b>bold" not in page


def test_paging_stays_inside_the_rows(panel: DataPanel) -> None:
    panel.browser.next.click()
    panel.browser.next.click()
    assert panel.browser.number.value == 3
    panel.browser.number.value = 17
    assert panel.browser.next.disabled
    panel.show(999)
    assert panel.browser.number.value == 17
    panel.browser.which.value = "held_out"
    assert panel.browser.number.value == 1
    assert panel.browser.number.max == 2
    panel.browser.next.click()
    assert panel.browser.next.disabled


def test_a_failure_is_shown_and_the_rows_stay(panel: DataPanel, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        panel.choose(f"{tmp_path}/nope.jsonl").wait()
    assert "nope.jsonl" in panel._message.value
    assert "read before" in panel._message.value
    assert len(panel.dataset.train) == 17
    assert not panel.workspace.is_current()
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError):
        panel.choose(str(empty)).wait()
    assert len(panel.dataset.train) == 17


def test_a_failure_goes_when_the_next_rows_are_good(panel: DataPanel, rows: Path) -> None:
    with pytest.raises(DataError):
        panel.choose("nope.jsonl").wait()
    panel.choose(str(rows)).wait()
    assert panel._message.value == ""


def test_changed_data_settings_read_the_rows_again(panel: DataPanel) -> None:
    panel.workspace.edit({"data.max_rows": 6, "data.held_out_fraction": 0})
    panel.wait()
    assert len(panel.dataset.train) == 6
    assert panel.browser.which.options == (("Training rows (6)", "train"),)


def test_a_changed_objective_changes_the_tokens_trained(panel: DataPanel) -> None:
    before = panel.counts.trained
    panel.workspace.edit({"objective.train_on": "all"})
    panel.wait()
    assert panel.counts.trained > before


def test_of_prompts_nothing_is_trained_and_nothing_is_wrong_with_that(panel: DataPanel) -> None:
    panel.workspace.edit({"objective": {"type": "grpo"}})
    panel.wait()
    assert panel.counts.trained == 0
    assert panel.counts.rows == 17
    assert not panel.counts.findings
    assert "Answer" not in panel.browser.view.text
    assert "the prompt" in panel.browser.view.label


def test_a_teacher_that_does_not_fit_is_an_error_finding(
    panel: DataPanel, tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(tiny_model_folder(), tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "other")
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(tmp_path / "other")
    for teacher, title in (
        ("", "No teacher"),
        (str(tmp_path / "other"), "The teacher has another vocabulary"),
        (str(tiny_model_folder(hidden_size=64)), None),
    ):
        panel.workspace.edit({"objective": {"type": "distillation", "teacher": teacher}})
        panel.wait()
        assert [(one.level, one.title) for one in panel.counts.findings] == (
            [("error", title)] if title else []
        )


def test_rows_with_nothing_to_learn_are_an_error_finding(panel: DataPanel, tmp_path: Path) -> None:
    silent = _turns("What?", "Not to be learned")
    silent["messages"][1]["weight"] = 0
    path = tmp_path / "silent.jsonl"
    path.write_text(
        "\n".join(json.dumps(row) for row in [*(_turns(f"q{n}", f"a{n}") for n in range(4)), silent])
    )
    panel.workspace.edit({"data.held_out_fraction": 0.0})
    panel.choose(str(path)).wait()
    assert [(one.level, one.title, one.rows) for one in panel.counts.findings] == [
        ("error", "No trained token", (4,))
    ]
    assert "1 row is left out" in panel._summary.value


def test_rows_longer_than_the_cut_off_are_announced(panel: DataPanel) -> None:
    panel.workspace.edit({"data.max_length": 4})
    panel.wait()
    assert panel.counts.too_long == 17
    assert "longer than the cut-off of 4 tokens" in panel._summary.value


def test_a_model_that_is_not_here_offers_to_be_fetched(rows: Path) -> None:
    recipe = Recipe(model="ftkit-tests/not-on-this-machine", data=str(rows))
    panel = DataPanel(Workspace(recipe)).wait()
    assert panel.counts is None
    assert panel._fetch.layout.display is None
    assert len(panel.dataset.train) > 0


def test_starter_sets_are_cards(panel: DataPanel) -> None:
    panel.choose("starter:persona").wait()
    assert panel.picker.kind.value == "starter"
    names = [card.children[1].description for card in panel.picker.sets.children]
    assert names == ["Use Extract", "In use"]
    panel.picker.sets.children[0].children[1].click()
    assert panel.workspace.recipe.data.source == "starter:extract"
    panel.wait()


def test_a_conversation_is_what_is_shown(panel: DataPanel) -> None:
    assert isinstance(panel.dataset.train[0], Conversation)
    assert isinstance(panel.dataset.train[0].messages[0], Message)


def test_a_column_is_given_another_role(panel: DataPanel, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("frage,antwort,instruction\nq0,a0,x\nq1,a1,y\n")
    with pytest.raises(DataError, match="not of a known format"):
        panel.choose(str(path)).wait()
    assert panel._mapping_fold.selected_index == 0
    mapping = panel._mapping
    mapping._format.value = "prompt-completion"
    with pytest.raises(DataError, match="do not fit"):  # the format alone does not say which columns
        panel.wait()
    assert list(mapping._roles)[:2] == ["prompt", "response"]
    mapping._roles["prompt"].value = "frage"
    mapping._roles["response"].value = "antwort"
    panel.wait()
    assert panel.workspace.recipe.data.columns == {"prompt": "frage", "response": "antwort"}
    assert panel.dataset.train[0].messages == (Message("user", "q0"), Message("assistant", "a0"))
    assert "antwort" in panel.workspace.recipe.to_python()

    other = tmp_path / "next.jsonl"
    other.write_text(json.dumps(_turns("q", "a")))
    panel.workspace.edit({"data.source": str(other)})  # as typed in the field
    panel.wait()
    assert panel.dataset.format == "messages"
    assert panel.workspace.recipe.data.columns == {}


def test_a_finding_goes_to_its_rows(panel: DataPanel, tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    made = [_turns(f"Question {n}", f"Answer {n}") for n in range(8)]
    made += [_turns("Where?", "write to <i>ann@example.org</i>"), _turns("Question 1", "Answer 1")]
    path.write_text("\n".join(json.dumps(row) for row in made))
    panel.workspace.edit({"data.held_out_fraction": 0.0})
    panel.choose(str(path)).wait()
    titles = [finding.title for finding in panel.counts.findings]
    assert titles == ["Duplicates", "E-mail addresses"]
    line = panel._findings.children[1]
    line.children[1].click()
    browser = panel.browser
    assert browser.at == 8
    assert [cell["place"] for cell in browser.table.rows] == [8]
    assert "1 of 10 rows: E-mail addresses" in browser.narrowed.value
    assert "ftk-histogram" in panel._summary.value
    browser.all_rows.click()
    assert browser.table.total == 10
    assert browser.at == 8
    assert browser._narrowed_row.layout.display == "none"


def test_the_rows_are_saved_as_messages(panel: DataPanel, tmp_path: Path) -> None:
    export = panel.export
    export.path.value = str(tmp_path / "<b>.jsonl")
    export.save.click()
    export.wait()
    assert "17 rows in" in export.says.value
    assert "<b>" not in export.says.value
    written = load(tmp_path / "<b>.jsonl", held_out_fraction=0).train
    assert [one.messages for one in written] == [one.messages for one in panel.dataset.train]
    assert len(load(tmp_path / "<b>-held_out.jsonl", held_out_fraction=0).train) == 2
    export.save.click()
    export.wait()
    assert "is there already" in export.says.value
    assert not export.save.disabled


def test_a_template_is_chosen_by_name_or_named_as_a_file(panel: DataPanel, tmp_path: Path) -> None:
    field = Field(panel.workspace, "data.template")
    assert "mistral" in field.control.options
    field.control.value = "mistral"
    panel.wait()
    assert "[INST] " in panel.browser.view.text
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}{{ m.role + '=' + m.content + eos_token }}{% endfor %}")
    field.control.value = str(own)
    panel.wait()
    assert panel.browser.view.text.startswith("user=")


def test_packing_follows_the_recipe(panel: DataPanel) -> None:
    assert "Packing: rows end to end need no padding" in panel._summary.value
    panel.workspace.edit({"training.batch_tokens": 64})
    panel.wait()
    assert panel.counts is not None
    assert panel.counts.batch_tokens == 64
    assert 0 < panel.counts.efficiency <= 1
    assert "batches of 64 tokens" in panel._summary.value
