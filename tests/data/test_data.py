"""Files become Examples, Examples become (ids, mask), with nothing dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftkit.data import Conversation, Message, Template, encode_all, load
from ftkit.data import generate as generator
from ftkit.data.batches import IGNORED, PackedCollator, PaddedCollator
from ftkit.errors import DataError
from ftkit.recipe import SFT, Data


def write(folder: Path, rows: list, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "messages"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt"),
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca"),
        ({"prompt": "q", "completion": "a"}, "prompt-completion"),
    ],
)
def test_conversations_of_every_format_are_recognised(tmp_path: Path, row: dict, name: str) -> None:
    dataset = load(Data(source=write(tmp_path, [row, row]), held_out_fraction=0))
    assert dataset.format == name
    assert dataset.train[0].messages == (Message("user", "q"), Message("assistant", "a"))  # type: ignore[union-attr]


def test_a_row_without_an_answer_is_refused_with_its_number(tmp_path: Path) -> None:
    good = {"prompt": "q", "completion": "a"}
    dataset = load(Data(source=write(tmp_path, [good, {"prompt": "q", "completion": ""}, good])))
    assert [(refusal.row, refusal.reason) for refusal in dataset.refused] == [(1, "completion is empty")]


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no rows"), ('{"prompt": "q"}\n{"prompt', "line 2"), ('{"colour": "red"}', "colour")],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        load(Data(source=str(path)))


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path, [{"text": "a"}])
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        load(Data(source=str(tmp_path / "row.jsonl")))


def test_a_hub_id_while_offline_is_refused_at_once() -> None:
    with pytest.raises(DataError, match="offline"):
        load(Data(source="someone/something"), offline=True)


def test_the_mask_covers_the_answers_and_their_eos_only(starter_tokenizer: Any) -> None:
    turns = [("user", "Hi"), ("assistant", "Hello there."), ("user", "Bye"), ("assistant", "So long!")]
    messages = tuple(Message(role, text) for role, text in turns)
    encoded = Template(starter_tokenizer).encode(Conversation(messages))
    whole = starter_tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in turns], tokenize=True, return_dict=False
    )
    assert encoded.ids.tolist() == list(whole)
    trained = starter_tokenizer.decode(encoded.ids[encoded.mask])
    assert trained == "Hello there.<|im_end|>So long!<|im_end|>"
    last = Template(starter_tokenizer).encode(Conversation(messages), "last")
    assert starter_tokenizer.decode(last.ids[last.mask]) == "So long!<|im_end|>"


def test_a_prompt_longer_than_the_cut_off_is_counted_or_refused(starter_tokenizer: Any) -> None:
    rows = [Conversation((Message("user", "word " * n), Message("assistant", "yes")), n) for n in (1, 200)]
    template = Template(starter_tokenizer)
    kept = encode_all(rows, template, objective=SFT(), max_length=64, too_long="drop")
    assert [row.row for row in kept.rows] == [1]
    assert kept.refused[0].row == 200
    with pytest.raises(DataError, match="Row 200"):
        encode_all(rows, template, objective=SFT(), max_length=64, too_long="error")


def test_packed_and_padded_batches_hold_the_same_tokens_once(starter_tokenizer: Any) -> None:
    rows = [Conversation((Message("user", "a " * n), Message("assistant", "b")), n) for n in (1, 5)]
    encoded = encode_all(
        rows, Template(starter_tokenizer), objective=SFT(), max_length=99, too_long="drop"
    ).rows
    packed, padded = PackedCollator()(encoded), PaddedCollator(0)(encoded)
    everything = np.concatenate([row.ids for row in encoded])
    assert packed["input_ids"][0].tolist() == everything.tolist()
    assert padded["input_ids"][padded["attention_mask"].bool()].tolist() == everything.tolist()
    assert (packed["labels"] != IGNORED).sum() == (padded["labels"] != IGNORED).sum()
    assert [packed["position_ids"][0, start].item() for start in packed["cu_seqlens"][:-1]] == [0, 0]


@pytest.mark.parametrize("name", ["extract", "persona"])
def test_starter_sets_do_not_leak(name: str) -> None:
    dataset = load(Data(source=f"starter:{name}"))
    train, held_out = (
        {example.messages[-2].content for example in part} for part in (dataset.train, dataset.held_out)
    )  # type: ignore[union-attr]
    assert len(dataset.train) >= 200
    assert len(dataset.held_out) >= 40
    assert not train & held_out


def test_the_generator_makes_the_committed_rows() -> None:
    committed = (generator.STARTER_FOLDER / "extract-train.jsonl").read_text(encoding="utf-8").splitlines()
    assert generator.extract_rows("train") == [json.loads(line) for line in committed]
