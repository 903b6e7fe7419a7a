"""Pre-flight names what is wrong with rows, and stays silent about good ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ftkit
from ftkit.cli import main
from ftkit.data import Conversation, Encoded, LabelledText, Message, Template, encode, load
from ftkit.data.inspection import inspect
from ftkit.data.preflight import preflight
from ftkit.errors import RunError
from ftkit.recipe import SFT, Recipe

from .families import FAMILIES


def talk(*texts: str, row: int = 0, roles: tuple[str, ...] = ("user", "assistant")) -> Conversation:
    turns = tuple(Message(roles[place % len(roles)], text) for place, text in enumerate(texts))
    return Conversation(turns, row)


def titles(*examples: Any, **more: Any) -> dict[str, tuple[int, ...]]:
    return {finding.title: finding.rows for finding in preflight(examples, **more)}


def test_good_rows_have_no_findings() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    rows = [talk(f"question {n}", f"answer {n}\nin two lines {family}", row=n) for n in range(20)]
    assert titles(*rows) == {}


@pytest.mark.parametrize(
    ("row", "title"),
    [
        (talk("q", "a b", row=1), "Duplicates"),
        (talk("q", "x", row=1), "Answers of one character or less"),
        (talk("q", "and", "more", row=1, roles=("user", "user", "assistant")), "Turns do not alternate"),
        (talk("q", "zero\u200bwidth", row=1), "Invisible characters"),
        (talk("q", "hf_" + "a" * 30, row=1), "Looks like a secret"),
        (talk("q", "write to ann@example.org", row=1), "E-mail addresses"),
        (talk("q", "I am {{name}}", row=1), "Placeholders left"),
    ],
)
def test_an_odd_row_is_named(row: Conversation, title: str) -> None:
    assert titles(talk("q", "a b"), row) == {title: (1,)}


SECRETS = [
    "sk-" + "a1" * 15,
    "hf_" + "Ab1" * 10,
    "ghp_" + "a1" * 18,
    "github_pat_" + "a1" * 20,
    "AKIA" + "A1" * 8,
]
SECRETS += ["xoxb-" + "12" * 8, "AIza" + "a1b2c" * 7, "-----BEGIN RSA PRIVATE KEY-----"]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found_and_never_repeated(
    secret: str, tmp_path: Path, tiny_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(
            json.dumps({"prompt": q, "completion": a}) for q, a in [("q", f"it is {secret}."), ("r", "a b")]
        )
    )
    command = ["data", "inspect", str(path), "--model", str(tiny_model_folder()), "--offline"]
    for more in ((), ("--json",)):
        assert main([*command, *more]) == 0
        printed = capsys.readouterr().out
        assert "Looks like a secret" in printed
        assert secret[:5] in printed
        assert secret[:8] not in printed


@pytest.mark.parametrize(
    "text",
    [
        "skip-this-long-and-winding-word",
        "task-1234567890123456789012",
        "hf_short",
        "a@b",
        "@ann",
        "10 @ 5.50",
    ],
)
def test_what_only_resembles_a_secret_or_an_address_is_left_alone(text: str) -> None:
    assert titles(talk("q", f"it is {text}")) == {}


def test_rows_alike_but_for_space_and_case_are_duplicates() -> None:
    assert titles(talk("Where is it?", "In Lisbon."), talk("where  is it?\n", "in lisbon.", row=1)) == {
        "Duplicates": (1,)
    }


@pytest.mark.parametrize(
    ("roles", "odd"),
    [
        ("user assistant user assistant", False),
        ("system user assistant", False),
        ("user assistant tool tool assistant", False),
        ("user assistant assistant", True),
        ("system user user assistant", True),
    ],
)
def test_turns_of_one_speaker_in_a_row_are_named(roles: str, odd: bool) -> None:
    row = Conversation(tuple(Message(role, f"{role} says {n}") for n, role in enumerate(roles.split())), 4)
    assert titles(row) == ({"Turns do not alternate": (4,)} if odd else {})


def test_a_held_out_row_in_the_training_data_is_a_leak() -> None:
    rows = [talk("q", "a b"), talk("r", "c d", row=1)]
    assert titles(*rows, held_out=[talk("r", "c d", row=9)]) == {"Held-out rows in the training data": (1,)}


def test_labels_out_of_balance() -> None:
    rows = [LabelledText(f"t{n}", "yes", n) for n in range(30)]
    assert titles(*rows) == {"One label only": ()}
    assert titles(*rows, LabelledText("t", "no", 30)) == {"Unbalanced labels": ()}


def row_of(length: int, trained: int, row: int) -> Encoded:
    mask = np.zeros(length, bool)
    mask[length - trained :] = True
    ids = np.full(length, 5, np.int32)
    ids[-1] = 2
    return Encoded(ids, mask, row)


def test_tokens_are_looked_at() -> None:
    rows = [row_of(20, 5, n) for n in range(40)]
    assert titles(encoded=rows, ends=(2,)) == {}
    untrained, endless, long = row_of(20, 0, 40), row_of(20, 5, 41), row_of(400, 5, 42)
    endless.ids[-1] = 5
    assert titles(encoded=[*rows, untrained, endless, long], ends=(2,)) == {
        "No trained token": (40,),
        "Replies without an end": (41,),
        "Unusually long rows": (42,),
    }
    found = preflight((), encoded=[*rows, untrained, long], ends=(2,))
    assert [finding.level for finding in found] == ["error", "warning"]
    assert "row 42, has 400 tokens" in found[1].message


def test_every_trained_answer_must_end() -> None:
    """Two answers of which only the last has its end; then both, the first by the template's own token."""
    ids = np.array([9, 9, 5, 5, 9, 5, 2], np.int32)
    mask = np.array([0, 0, 1, 1, 0, 1, 1], bool)
    text = Encoded(np.full(5, 5, np.int32), np.ones(5, bool), 3)
    assert titles(encoded=[Encoded(ids, mask, 7), text], ends=(2,)) == {"Replies without an end": (7,)}
    ids[3] = 4
    assert titles(encoded=[Encoded(ids, mask, 7), text], ends=(2, 4)) == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_own_end_of_turn_is_an_end(family: str, starter_tokenizer: Any) -> None:
    template = Template(FAMILIES[family].tokenizer(starter_tokenizer))
    rows = [encode(talk("q", "a b", "r", "c d"), template, SFT())]
    assert titles(encoded=rows, ends=template.end_ids()) == {}


SILENT = {
    "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a b", "weight": 0}]
}
SAID = {"messages": [{"role": "user", "content": "r"}, {"role": "assistant", "content": "b c"}]}


def test_rows_without_a_trained_token_are_an_error_of_the_inspection(starter_tokenizer: Any) -> None:
    found = inspect(load([SAID, SILENT], held_out_fraction=0), Template(starter_tokenizer))
    assert [(one.level, one.title, one.rows) for one in found.findings] == [
        ("error", "No trained token", (1,))
    ]
    assert found.to_dict()["accepted"] == 1
    assert [one.row for one in found.refused] == [1]


def test_a_run_goes_on_without_them_and_says_so(
    tmp_path: Path, tiny_model_folder: Callable[..., Path]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (SILENT, SAID, SAID, SILENT)))
    recipe = Recipe(
        model=str(tiny_model_folder()),
        data={"source": str(path), "held_out_fraction": 0},
        training={"max_steps": 1, "batch_size": 1},
        output={"folder": tmp_path / "runs"},
    )
    run = ftkit.start(recipe)
    run.wait(120)
    notes = [
        event for event in run.events() if event["kind"] == "note" and "No trained token" in event["text"]
    ]
    assert [(note["level"], "(rows 0, 3)" in note["text"]) for note in notes] == [("error", True)]

    path.write_text(json.dumps(SILENT))
    with pytest.raises(RunError, match="No row can be trained on"):
        ftkit.start(recipe).wait(120)


def test_an_inspection_counts_every_row_once(starter_tokenizer: Any) -> None:
    good = {"prompt": "q", "completion": "a b"}
    dataset = load([good, {"prompt": "q"}, {"prompt": "r", "completion": "c d"}], held_out_fraction=0)
    facts = inspect(dataset, Template(starter_tokenizer)).to_dict()
    assert (facts["rows"], facts["accepted"]) == (3, 2)
    assert facts["refused"] == [{"row": 1, "reason": "completion is empty"}]
    assert 0 < facts["trained_tokens"] < facts["tokens"]
    assert facts["lengths"]["max"] >= facts["lengths"]["p50"] > 0


def test_the_command_prints_one_json_object(
    tmp_path: Path, tiny_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"q{n}", "completion": "<b>a</b>"}) for n in range(3)))
    model = str(tiny_model_folder())
    command = ["data", "inspect", str(path), "--model", model, "--offline"]
    assert main([*command, "--row", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"format", "rows", "accepted", "refused", "tokens", "trained_tokens", "findings"} <= set(facts)
    trained = "".join(token["text"] for token in facts["row"]["tokens"] if token["trained"])
    assert trained == "<b>a</b><|im_end|>"
    assert main([*command, "--row", "2"]) == 0
    assert "3, 3 can be learned" in capsys.readouterr().out
    assert main([*command, "--row", "7"]) == 1
    assert main([*command, "--template", "nope"]) == 1
    assert "chatml" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["kto_en_demo.json", "identity.json"])
def test_real_files_need_no_hint(
    name: str, shared_data: Callable[[str], Path], starter_tokenizer: Any
) -> None:
    dataset = load(shared_data(name), held_out_fraction=0)
    assert not dataset.refused
    found = inspect(dataset, Template(starter_tokenizer))
    if name.startswith("kto"):
        assert (dataset.format, len(dataset.train), len(found.encoded)) == ("rated", 300, 150)
    else:
        assert (dataset.format, len(dataset.train)) == ("alpaca", 91)
        assert "Placeholders left" in {finding.title for finding in found.findings}
