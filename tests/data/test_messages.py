"""Every format becomes OpenAI messages, and nothing is lost on the way there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftkit.cli import main
from ftkit.data import (
    Conversation,
    Example,
    LabelledText,
    Message,
    PlainText,
    PreferencePair,
    RatedReply,
    SpanAnswer,
    TaggedTokens,
    as_conversation,
    load,
    to_messages,
    write_messages,
)
from ftkit.data.example import UnusableRowError, images_of
from ftkit.errors import DataError

from .test_formats import ROWS

CALL = {"type": "function", "id": "call_7", "function": {"name": "look", "arguments": {"at": "ü"}}}
TOOLS = ({"type": "function", "function": {"name": "look", "parameters": {}}},)
Q, A, B = Message("user", "q"), Message("assistant", "a"), Message("assistant", "b")
CALLED = (
    Message("system", "s"),
    Q,
    Message("assistant", "", (CALL,)),
    Message("tool", "7", tool_call_id="call_7", name="look"),
    Message("assistant", "a", weight=0.0),
    Q,
    Message("assistant", "<b>\u2028\n", weight=0.5),
)
SEEN = Message("user", "See <image> and <image>!", images=("a.png", "https://example.org/b.png"))
SAME: list[Example] = [
    Conversation((Q, A)),
    Conversation(CALLED, tools=TOOLS),
    Conversation((SEEN, A)),
    PlainText("once"),
    PreferencePair((Q,), (A,), (B,)),
    PreferencePair(CALLED[:4], (A,), (B,), tools=TOOLS),
    PreferencePair((SEEN,), (A,), (B,)),
    RatedReply((Q, A), good=False),
    RatedReply(CALLED, good=True, tools=TOOLS),
]
AS_TURNS: list[tuple[Example, tuple[Message, ...]]] = [
    (LabelledText("fine", "1"), (Message("user", "fine"), Message("assistant", "1"))),
    (
        TaggedTokens(("Ann", "is"), ("B", "O")),
        (Message("user", "Ann is"), Message("assistant", "Ann\tB\nis\tO")),
    ),
    (
        SpanAnswer("who?", "it is Ann", "Ann", 6),
        (Message("user", "it is Ann\n\nwho?"), Message("assistant", "Ann")),
    ),
]


def back(example: Example) -> Example:
    rows = [json.loads(json.dumps(row)) for row in to_messages([example])]
    return load(rows, held_out_fraction=0).train[0]


@pytest.mark.parametrize("example", SAME, ids=lambda example: type(example).__name__)
def test_there_and_back_is_the_same(example: Example) -> None:
    assert back(example) == example


@pytest.mark.parametrize(("example", "turns"), AS_TURNS, ids=lambda one: type(one).__name__)
def test_what_is_no_conversation_becomes_a_question_and_its_answer(
    example: Example, turns: tuple[Message, ...]
) -> None:
    assert back(example) == Conversation(turns)


@pytest.mark.parametrize("name", ROWS)
def test_a_file_of_every_format_is_converted(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row, example = ROWS[name]
    source, target = tmp_path / "rows.json", tmp_path / "out.jsonl"
    source.write_text(json.dumps([row, row, {}]))
    assert main(["data", "convert", str(source), str(target), "--format", name]) == 0
    printed = capsys.readouterr().out
    assert "2 rows" in printed
    assert "row 2" in printed
    written = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert written == list(to_messages([example, example]))
    found = load(target, held_out_fraction=0).train[0]
    assert list(to_messages([found])) == written[:1]
    assert main(["data", "convert", str(source), str(target), "--format", name]) == 1
    assert "there already" in capsys.readouterr().err
    assert main(["data", "convert", str(source), str(target), "--format", name, "--overwrite"]) == 0


def test_the_forms_are_openais() -> None:
    (row,) = to_messages([PreferencePair(CALLED[:4], (A,), (B,), tools=TOOLS)])
    assert set(row) == {"input", "preferred_output", "non_preferred_output"}
    assert row["input"]["tools"] == list(TOOLS)
    call = row["input"]["messages"][2]
    assert call["content"] is None
    assert call["tool_calls"] == [
        {"id": "call_7", "type": "function", "function": {"name": "look", "arguments": '{"at": "ü"}'}}
    ]
    (seen,) = to_messages([Conversation((SEEN, A))])
    assert [part["type"] for part in seen["messages"][0]["content"]] == [
        "text",
        "image_url",
        "text",
        "image_url",
        "text",
    ]


def test_calls_and_results_without_ids_are_joined_in_order() -> None:
    bare = {"type": "function", "function": {"name": "look", "arguments": "not json"}}
    turns = (Q, Message("assistant", "", (bare, bare)), Message("tool", "1"), Message("tool", "2"), A)
    (row,) = to_messages([Conversation(turns)])
    calls = [call["id"] for call in row["messages"][1]["tool_calls"]]
    results = [turn["tool_call_id"] for turn in row["messages"] if turn["role"] == "tool"]
    assert calls == results == ["call_0", "call_1"]


def test_held_out_rows_have_their_own_file(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "completion": "a"} for n in range(10)]
    written = write_messages(load(rows, held_out_fraction=0.2), tmp_path / "chats.jsonl")
    assert {path.name: count for path, count in written.items()} == {
        "chats.jsonl": 8,
        "chats-held_out.jsonl": 2,
    }
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(DataError, match="cannot be written"):
        write_messages([PlainText("x")], tmp_path / "nowhere" / "a.jsonl")


# Images


@pytest.mark.parametrize(
    ("row", "content", "images"),
    [
        (
            {"messages": [{"role": "user", "content": "<image>what?"}], "images": ["a.png"]},
            "<image>what?",
            ["a.png"],
        ),
        ({"messages": [{"role": "user", "content": "what?"}], "image": "a.png"}, "<image>what?", ["a.png"]),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}
                ],
                "images": [{"path": "a.png", "bytes": None}],
            },
            "<image>what?",
            ["a.png"],
        ),
        ({"messages": [{"role": "user", "content": "what is <image>?"}]}, "what is <image>?", []),
    ],
)
def test_images_stand_where_they_belong(row: dict[str, Any], content: str, images: list[str]) -> None:
    row["messages"].append({"role": "assistant", "content": "a cat"})
    example = load([row], held_out_fraction=0).train[0]
    assert isinstance(example, Conversation)
    assert example.messages[0].content == content
    assert list(images_of(example)) == images
    if images:
        with pytest.raises(UnusableRowError, match="1 image: training on text alone"):
            as_conversation(example)


@pytest.mark.parametrize(
    ("images", "content", "reason"),
    [
        (["a.png"], "<image> <image>", "1 images and 2 places"),
        (["a.png", "b.png"], "<image>", "2 images and 1 places"),
        ([{"bytes": "x"}], "what?", "bytes alone"),
        ([3], "what?", "is int, not a path"),
        ([], [{"type": "image"}], "0 images and 1 places"),
        ([], [{"type": "input_audio"}], "'input_audio'"),
    ],
)
def test_images_that_cannot_be_placed_refuse_the_row(images: list[Any], content: Any, reason: str) -> None:
    turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": [{"role": "user", "content": "q"}, turns[1]]}, {"messages": turns, "images": images}]
    dataset = load(rows, held_out_fraction=0)
    assert [one.row for one in dataset.refused] == [1]
    assert reason in dataset.refused[0].reason
