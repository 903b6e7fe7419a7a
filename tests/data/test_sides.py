"""Pairs and rated replies as tokens: the reply alone is trained on, and sides stay together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftkit.data import Conversation, Message, PreferencePair, RatedReply, Template, encode_all, load
from ftkit.data.encode import row_tokens
from ftkit.errors import DataError
from ftkit.recipe import DPO, GRPO, KTO, SFT


def says(role: str, text: str) -> Message:
    return Message(role, text)


def pair(row: int = 0, chosen: str = "A lamp.", rejected: str = "No.", turns: int = 1) -> PreferencePair:
    prompt = [says("system", "Be short.")]
    for number in range(turns):
        prompt += [says("user", f"What is on table {number}?"), says("assistant", "A book.")]
    prompt[-1:] = []
    return PreferencePair(tuple(prompt), (says("assistant", chosen),), (says("assistant", rejected),), row)


@pytest.fixture(scope="module")
def template(tiny_model_folder: Callable[..., Path]) -> Template:
    from transformers import AutoTokenizer

    return Template(AutoTokenizer.from_pretrained(tiny_model_folder()))


def trained(row: Any, template: Template) -> str:
    return template.tokenizer.decode(row.ids[row.mask])


def test_a_pair_is_two_rows_with_only_the_replies_trained(template: Template) -> None:
    found = encode_all([pair(7, turns=3)], template, objective=DPO(), max_length=500, too_long="drop")
    chosen, rejected = found.rows
    assert (chosen.row, rejected.row) == (7, 7)
    assert trained(chosen, template) == "A lamp.<|im_end|>"
    assert trained(rejected, template) == "No.<|im_end|>"
    start = int(np.flatnonzero(chosen.mask)[0])
    assert np.array_equal(chosen.ids[:start], rejected.ids[:start])


def test_the_tokens_are_those_of_supervised_fine_tuning(template: Template) -> None:
    limits: dict[str, Any] = {"max_length": 500, "too_long": "drop"}
    as_pair = encode_all([pair(turns=2)], template, objective=DPO(), **limits).rows[0]
    talk = Conversation((*pair(turns=2).prompt, *pair().chosen))
    alone = encode_all([talk], template, objective=SFT(train_on="last"), **limits).rows[0]
    assert np.array_equal(as_pair.ids, alone.ids)
    assert np.array_equal(as_pair.mask, alone.mask)


def test_a_rated_reply_carries_its_rating_through_memory_and_disk(template: Template, tmp_path: Path) -> None:
    asked = says("user", "Hello?")
    rows = [RatedReply((asked, says("assistant", f"Yes {n}")), good=n % 3 == 0, row=n) for n in range(1100)]
    limits: dict[str, Any] = {"objective": KTO(), "max_length": 99, "too_long": "drop"}
    in_memory = encode_all(rows, template, **limits).rows
    on_disk = encode_all(rows, template, cache=tmp_path, **limits).rows
    expected = [int(n % 3 == 0) for n in range(1100)]
    assert [row.label for row in in_memory] == expected
    assert [row.label for row in on_disk] == expected


def test_a_pair_is_two_rated_replies(template: Template) -> None:
    found = encode_all([pair()], template, objective=KTO(), max_length=99, too_long="drop")
    assert [row.label for row in found.rows] == [1, 0]


def test_only_the_last_reply_of_a_rated_conversation_is_trained(template: Template) -> None:
    turns = (says("user", "a"), says("assistant", "b"), says("user", "c"), says("assistant", "d"))
    found = encode_all(
        [RatedReply(turns, good=True)], template, objective=KTO(), max_length=99, too_long="drop"
    )
    assert trained(found.rows[0], template) == "d<|im_end|>"


def test_processes_make_the_same_rows(template: Template) -> None:
    rows = [pair(n, chosen=f"Lamp {n}.", turns=1 + n % 3) for n in range(700)]
    rows[300] = RatedReply((says("user", "a"), says("assistant", "b")), good=True, row=300)
    limits: dict[str, Any] = {"objective": DPO(), "max_length": 90, "too_long": "keep_end"}
    here = encode_all(rows, template, processes=1, **limits)
    there = encode_all(rows, template, processes=2, **limits)
    assert here.refused == there.refused
    assert here.shortened == there.shortened
    assert [row.row for row in here.rows] == [row.row for row in there.rows]
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(here.rows, there.rows, strict=True))


@pytest.mark.parametrize("policy", ["keep_end", "keep_start", "split"])
def test_a_long_pair_loses_the_same_beginning_of_both_sides(template: Template, policy: str) -> None:
    rows = [pair(turns=12, rejected="No, there is nothing on it at all, I looked twice.")]
    found = encode_all(rows, template, objective=DPO(), max_length=120, too_long=policy)
    chosen, rejected = found.rows
    assert found.shortened == (0,)
    assert max(len(chosen.ids), len(rejected.ids)) <= 120
    start = int(np.flatnonzero(chosen.mask)[0])
    assert np.array_equal(chosen.ids[:start], rejected.ids[:start])
    kept = template.tokenizer.decode(chosen.ids)
    assert "Be short." in kept
    assert "table 11?" in kept
    assert "table 0?" not in kept


def test_both_sides_go_when_one_is_too_long(template: Template) -> None:
    rows = [pair(0), pair(1, rejected="No. " * 200)]
    found = encode_all(rows, template, objective=DPO(), max_length=99, too_long="drop")
    assert [row.row for row in found.rows] == [0, 0]
    assert [one.row for one in found.refused] == [1]
    short = encode_all(rows, template, objective=DPO(), max_length=99, too_long="keep_end")
    assert "does not fit" in short.refused[0].reason


def test_sides_that_differ_in_nothing_the_model_sees_are_refused(
    tiny_model_folder: Callable[..., Path],
) -> None:
    from transformers import AutoTokenizer

    trims = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content']|trim + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder(chat_template=trims))
    rows = [pair(0), pair(1, chosen="Yes.", rejected="Yes. ")]
    found = encode_all(rows, Template(tokenizer), objective=DPO(), max_length=99, too_long="drop")
    assert [(one.row, one.reason) for one in found.refused] == [
        (1, "chosen and rejected are the same tokens")
    ]
    assert len(found.rows) == 2


def test_rows_of_another_kind_say_what_is_needed(template: Template) -> None:
    talk = Conversation((says("user", "a"), says("assistant", "b")))
    with pytest.raises(DataError, match="a chosen and a rejected reply"):
        encode_all([talk], template, objective=DPO(), max_length=99, too_long="drop")
    with pytest.raises(DataError, match="rated good or bad"):
        encode_all([talk], template, objective=KTO(), max_length=99, too_long="drop")


def test_equal_sides_are_refused_when_the_rows_are_read() -> None:
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "a"},
    ]
    found = load(rows, held_out_fraction=0)
    assert [one.reason for one in found.refused] == ["chosen and rejected are the same"]


def test_the_preview_shows_both_sides_as_they_are_trained(template: Template) -> None:
    sides = row_tokens(pair(), template, DPO())
    assert [side.side for side in sides] == ["chosen", "rejected"]
    rows = encode_all([pair()], template, objective=DPO(), max_length=99, too_long="drop").rows
    for side, row in zip(sides, rows, strict=True):
        assert [token["id"] for token in side.tokens] == row.ids.tolist()
        assert [token["trained"] for token in side.tokens] == row.mask.tolist()
    (rated,) = row_tokens(
        RatedReply((says("user", "a"), says("assistant", "b")), good=False), template, KTO()
    )
    assert rated.side == "rated bad"


@pytest.mark.parametrize("kind", ["conversation", "pair", "rated"])
def test_of_a_prompt_nothing_is_trained_and_the_reply_is_yet_to_come(template: Template, kind: str) -> None:
    asked = (
        says("system", "Be short."),
        says("user", "What?"),
        says("assistant", "This."),
        says("user", "Why?"),
    )
    answer = says("assistant", "The row's own answer.")
    example = {
        "conversation": Conversation((*asked, answer)),
        "pair": PreferencePair(asked, (answer,), (says("assistant", "No."),)),
        "rated": RatedReply((*asked, answer), good=False),
    }[kind]
    (shown,) = row_tokens(example, template, GRPO())
    assert shown.side == "the prompt"
    assert shown.trained == 0
    assert not any(token["trained"] for token in shown.tokens)
    assert [token["id"] for token in shown.tokens] == template.prompt_ids(asked)
    assert shown.text.endswith("Why?<|im_end|>\n<|im_start|>assistant\n")


def test_processes_make_the_same_prompts(template: Template) -> None:
    rows = [Conversation((says("user", f"What is {n}?"), says("assistant", f"{n}.")), n) for n in range(600)]
    here, there = (
        encode_all(rows, template, objective=GRPO(), max_length=90, too_long="drop", processes=count)
        for count in (1, 2)
    )
    assert [row.ids.tolist() for row in here.rows] == [row.ids.tolist() for row in there.rows]
    assert here.trained_tokens == there.trained_tokens == 0
    assert len(here.rows) == 600
