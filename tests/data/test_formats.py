"""Rows of every format are recognised and become Examples; no row vanishes."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftkit.data import (
    FORMATS,
    Conversation,
    LabelledText,
    Message,
    PlainText,
    PreferencePair,
    RatedReply,
    SpanAnswer,
    TaggedTokens,
    as_conversation,
    load,
)
from ftkit.data.example import UnusableRowError
from ftkit.data.examples import to_examples
from ftkit.data.formats import recognise
from ftkit.errors import DataError

Q, A, B = Message("user", "q"), Message("assistant", "a"), Message("assistant", "b")
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": 1}}}

ROWS: dict[str, tuple[dict[str, Any], Any]] = {
    "messages": ({"messages": TURNS}, Conversation((Q, A))),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        Conversation((Q, A)),
    ),
    "alpaca": ({"instruction": "q", "input": "", "output": "a"}, Conversation((Q, A))),
    "prompt-completion": ({"question": "q", "answer": "a"}, Conversation((Q, A))),
    "preference": ({"prompt": "q", "chosen": "a", "rejected": "b"}, PreferencePair((Q,), (A,), (B,))),
    "ranking": ({"instruction": "q", "output": ["a", "b"]}, PreferencePair((Q,), (A,), (B,))),
    "rated": ({"messages": TURNS, "label": False}, RatedReply((Q, A), good=False)),
    "rated-replies": ({"prompt": "q", "completion": "a", "label": True}, RatedReply((Q, A), good=True)),
    "labelled": ({"text": "fine film", "label": 1}, LabelledText("fine film", "1")),
    "token-tags": (
        {"tokens": ["Ann", "is"], "ner_tags": [1, 0]},
        TaggedTokens(("Ann", "is"), ("1", "0")),
    ),
    "span-answers": (
        {"question": "who?", "context": "it is Ann", "answers": {"text": ["Ann"], "answer_start": [6]}},
        SpanAnswer("who?", "it is Ann", "Ann", 6),
    ),
    "text": ({"text": "once upon a time"}, PlainText("once upon a time")),
}


def test_there_is_a_row_here_for_every_format() -> None:
    assert set(ROWS) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_recognised_from_its_rows(name: str) -> None:
    row, expected = ROWS[name]
    dataset = load([row, row, row], held_out_fraction=0)
    assert dataset.format == name
    assert dataset.train[0] == expected
    assert dataset.confidence >= 0.8
    assert dataset.format_reason


def test_an_implicit_prompt_is_what_both_replies_share() -> None:
    other = [TURNS[0], {"role": "assistant", "content": "b"}]
    example = load([{"chosen": TURNS, "rejected": other}], held_out_fraction=0).train[0]
    assert example == PreferencePair((Q,), (A,), (B,))


def test_of_a_longer_ranking_the_best_is_set_against_the_worst_and_that_is_said() -> None:
    row = {"instruction": "q", "output": ["a", "middling", "b"]}
    dataset = load([row], held_out_fraction=0)
    assert dataset.train[0] == PreferencePair((Q,), (A,), (B,))
    assert "the others unused" in dataset.format_reason
    assert "unused" not in load([ROWS["ranking"][0]], held_out_fraction=0).format_reason


@pytest.mark.parametrize(
    "turns",
    [
        [{"speaker": "human", "text": "q"}, {"speaker": "bot", "text": "a"}],
        json.dumps(TURNS),
        [{"role": "USER", "content": [{"type": "text", "text": "q"}]}, {"role": "model", "content": "a"}],
    ],
)
def test_turns_are_read_whatever_their_keys(turns: Any) -> None:
    example = load([{"dialogue": turns}], held_out_fraction=0).train[0]
    assert isinstance(example, Conversation)
    assert example.messages == (Q, A)


def test_tags_name_what_is_not_known_by_itself() -> None:
    row = {"talk": [{"wer": "ich", "was": "q"}, {"wer": "es", "was": "a"}]}
    tags = {"role_tag": "wer", "content_tag": "was", "user_tag": "ich", "assistant_tag": "es"}
    dataset = load([row], format="sharegpt", columns={"messages": "talk"}, tags=tags, held_out_fraction=0)
    assert dataset.train[0] == Conversation((Q, A))
    assert dataset.format_reason == "as asked"


def test_tool_calls_and_results_are_kept() -> None:
    turns = [
        TURNS[0],
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "7"},
        TURNS[1],
    ]
    tools = [{"type": "function", "function": {"name": "look"}}]
    example = load([{"messages": turns, "tools": tools}], held_out_fraction=0).train[0]
    assert isinstance(example, Conversation)
    assert example.messages[1] == Message("assistant", "", (CALL,))
    assert example.messages[2] == Message("tool", "7")
    assert example.tools == tuple(tools)


def test_a_sharegpt_function_call_becomes_a_tool_call() -> None:
    call = json.dumps({"name": "look", "arguments": {"at": 1}})
    turns = [("human", "q"), ("function_call", call), ("observation", "7"), ("gpt", "a")]
    row = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    example = load([row], held_out_fraction=0).train[0]
    assert isinstance(example, Conversation)
    assert example.messages[1].tool_calls[0]["function"]["name"] == "look"
    assert [message.role for message in example.messages] == ["user", "assistant", "tool", "assistant"]


def test_history_is_learned_and_prompt_and_query_join_with_a_newline() -> None:
    row = {"instruction": "q", "input": "more", "output": "a", "history": [["q0", "a0"]], "system": "s"}
    example = load([row], held_out_fraction=0).train[0]
    assert isinstance(example, Conversation)
    assert [message.content for message in example.messages] == ["s", "q0", "a0", "q\nmore", "a"]


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([{"colour": "red"}], {}, "found: colour"),
        ([{"instrction": "q", "output": "a"}], {}, "instrction"),
        ([{"a": "q", "b": "x"}], {"format": "alpca"}, "alpaca"),
        ([{"a": "q", "b": "x"}], {"columns": {"prompt": "A", "response": "b"}}, "no column 'A'"),
        ([{"a": "q", "b": "x"}], {"columns": {"prompt": "a", "response": "a"}}, "several roles"),
        ([{"a": "q"}], {"columns": {"promt": "a"}}, "no role 'promt'"),
        ([{"text": "q"}], {"tags": {"role": "x"}}, "no tag 'role'"),
    ],
)
def test_what_does_not_fit_is_said(rows: list, options: dict, words: str) -> None:
    with pytest.raises(DataError) as caught:
        load(rows, held_out_fraction=0, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [{"role": "wizard", "content": "q"}]}, "unknown role 'wizard'"),
        ({"messages": [TURNS[0]]}, "no answer"),
        ({"messages": [TURNS[1]]}, "starts with an answer"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": " \n"}]}, "message 1 (assistant) is empty"),
        ({"messages": "not json"}, "not a list of messages"),
        ({"messages": [{"role": "user", "content": 3}, TURNS[1]]}, "is int, not text"),
        ({"messages": [{"content": "q"}, TURNS[1]]}, "has no 'role'"),
        ({"messages": [{"role": "user", "content": [{"text": 3}]}, TURNS[1]]}, "is int, not text"),
        ({"messages": [TURNS[0], TURNS[1] | {"weight": 10**400}]}, "not a finite number"),
        ({}, "not a list of messages"),
        ("just text", "not an object"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_number(row: Any, reason: str) -> None:
    good = {"messages": TURNS}
    dataset = load([good, good, row, good], held_out_fraction=0)
    assert [refusal.row for refusal in dataset.refused] == [2]
    assert reason in dataset.refused[0].reason
    assert [example.row for example in dataset.train] == [0, 1, 3]


def test_supervised_fine_tuning_imitates_good_replies_only() -> None:
    assert as_conversation(PreferencePair((Q,), (A,), (B,))) == Conversation((Q, A))
    with pytest.raises(UnusableRowError, match="rated bad"):
        as_conversation(RatedReply((Q, A), good=False))


# Files


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow as pa

    rows = [{"prompt": f'q{n}, "x"\nü', "completion": f"a{n}"} for n in range(5)]
    lines = "\n".join(json.dumps(row) for row in rows)
    frame = pd.DataFrame(rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "lines.json").write_text(lines)
    (tmp_path / "bom.json").write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    (tmp_path / "under.json").write_text(json.dumps({"data": rows}))
    frame.to_csv(tmp_path / "a.csv", index=False, quoting=csv.QUOTE_ALL)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_csv(tmp_path / "semicolon.csv", index=False, sep=";")
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    with pa.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as out:
        out.write(lines.encode())
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), pa.Table.from_pandas(frame).schema) as out:
        out.write_table(pa.Table.from_pandas(frame))
    expected = load(rows, held_out_fraction=0).train
    for path in sorted(tmp_path.iterdir()):
        assert load(path, held_out_fraction=0).train == expected, path.name
    assert load(frame, held_out_fraction=0).train == expected


def test_a_folder_is_read_file_after_file(tmp_path: Path) -> None:
    for name in "ba":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    dataset = load(tmp_path, held_out_fraction=0)
    assert [(example.row, example.text) for example in dataset.train] == [(0, "a"), (1, "b")]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b'[{"text": "a"},\n {"text": }]', "line 2, column 11"),
        ("a.jsonl", b'{"text": "a"}\n{"text', "line 2, column"),
        ("a.json", b"", "no rows"),
        ("a.csv", b"", "no rows"),
        ("a.parquet", b"", "cannot be read"),
        ("a.json", b"[1, 2]", "row 0: a row must be an object"),
        ("a.jsonl", "{'text': 'ä'}".encode("latin-1"), "not UTF-8"),
        ("a.csv", b"prompt,completion\na,b\nc,d,e\n", "line 3: 3 cells, the header has 2"),
        ("a.csv", b"text,text\na,b\n", "two columns 'text'"),
        ("a.csv", b'text\n"never closed', "not valid CSV"),
        ("a.jsonl.gz", b"plain", "not a whole gzip"),
        ("a.jsonl.zst", b"plain", "not a whole zstd"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_file_says_where(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(path)
    assert words in str(caught.value)
    assert name in str(caught.value)


def test_one_very_long_row_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\nq," + "a" * 50_000_000)
    example = load(path, held_out_fraction=0).train[0]
    assert len(example.messages[1].content) == 50_000_000  # type: ignore[union-attr]


# Properties

_text = st.text(min_size=1, max_size=20).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_text, _text), min_size=1, max_size=8))
def test_order_and_content_are_kept(pairs: list[tuple[str, str]]) -> None:
    rows = [{"instruction": asked, "output": answer} for asked, answer in pairs]
    examples, refused = to_examples(rows, recognise(rows))
    assert not refused
    texts = [tuple(message.content for message in example.messages) for example in examples]  # type: ignore[union-attr]
    assert texts == pairs


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.lists(st.dictionaries(st.integers(0, 6), _json), max_size=6))
def test_every_row_is_an_example_or_a_refusal(name: str, noise: list[dict[int, Any]]) -> None:
    """Whatever stands in the columns, nothing is lost and nothing else than a Refusal happens."""
    row, _ = ROWS[name]
    layout = recognise([row], format=name)
    columns = list(row)
    rows: list[Any] = [row]
    for values in noise:
        rows.append({**row, **{columns[n % len(columns)]: value for n, value in values.items()}})
    examples, refused = to_examples(rows, layout)
    numbers = [example.row for example in examples] + [refusal.row for refusal in refused]
    assert sorted(numbers) == list(range(len(rows)))
    assert all(refusal.reason for refusal in refused)
