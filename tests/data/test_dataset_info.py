"""LLaMA-Factory's dataset_info.json is read as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftkit.data import Conversation, PlainText, PreferencePair, RatedReply, load
from ftkit.errors import DataError


def listing(folder: Path, entry: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json", **entry}}))
    return folder


def contents(example: Any) -> list[str]:
    assert isinstance(example, Conversation)
    return [message.content for message in example.messages]


def test_an_alpaca_entry_without_columns_uses_the_usual_ones(tmp_path: Path) -> None:
    rows = [{"instruction": "q", "input": "more", "output": "a"}]
    assert contents(load(listing(tmp_path, {}, rows), held_out_fraction=0).train[0]) == ["q\nmore", "a"]


def test_a_column_that_is_not_named_is_absent(tmp_path: Path) -> None:
    rows = [{"instruction": "q", "input": "more", "output": "a"}]
    folder = listing(tmp_path, {"columns": {"prompt": "instruction", "response": "output"}}, rows)
    assert contents(load(folder, held_out_fraction=0).train[0]) == ["q", "a"]


def test_tags_and_samples(tmp_path: Path) -> None:
    turns = [{"who": "me", "says": "q"}, {"who": "it", "says": "a"}]
    entry = {
        "formatting": "sharegpt",
        "columns": {"messages": "talk"},
        "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "it"},
        "num_samples": 2,
    }
    dataset = load(listing(tmp_path, entry, [{"talk": turns}] * 5), held_out_fraction=0)
    assert [contents(example) for example in dataset.train] == [["q", "a"]] * 2


def test_ranking_rating_and_pretraining(tmp_path: Path) -> None:
    pair = {"ranking": True, "columns": {"prompt": "p", "chosen": "c", "rejected": "r"}}
    folder = listing(tmp_path, pair, [{"p": "q", "c": "a", "r": "b"}])
    assert isinstance(load(folder, held_out_fraction=0).train[0], PreferencePair)
    rated = {"columns": {"prompt": "p", "response": "c", "kto_tag": "good"}}
    folder = listing(tmp_path, rated, [{"p": "q", "c": "a", "good": False}])
    example = load(folder, held_out_fraction=0).train[0]
    assert isinstance(example, RatedReply)
    assert not example.good
    folder = listing(tmp_path, {"columns": {"prompt": "t"}}, [{"t": "once"}])
    assert load(folder, held_out_fraction=0).train[0] == PlainText("once")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"colums": {}}, "Did you mean 'columns'"),
        ({"columns": {"promt": "a"}}, "unknown column 'promt'"),
        ({"columns": {"prompt": "missing", "response": "output"}}, "no column 'missing'"),
        ({"columns": {"videos": "v"}}, "does not train on videos"),
        ({"formatting": "chatty"}, "unknown formatting"),
        ({"tags": {"role": "x"}, "formatting": "sharegpt"}, "unknown tag 'role'"),
        ({"file_name": "../rows.json"}, "leaves the folder"),
        ({"num_samples": "many"}, "num_samples"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        load(listing(tmp_path, entry, [{"instruction": "q", "output": "a"}]))
    assert words in str(caught.value)
    assert "mine" in str(caught.value)


def test_a_source_out_of_reach_says_so(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(json.dumps({"far": {"ms_hub_url": "a/b"}}))
    with pytest.raises(DataError, match="ms_hub_url, which ftkit cannot reach"):
        load(tmp_path)


def test_one_of_several_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "q", "output": "a"}]))
    entries = {"first": {"file_name": "a.json"}, "second": {"file_name": "a.json"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
    with pytest.raises(DataError, match="first, second"):
        load(tmp_path)
    with pytest.raises(DataError, match="Did you mean first"):
        load(tmp_path, subset="frist")
    assert len(load(tmp_path, subset="first", held_out_fraction=0).train) == 1
