"""Masks against `apply_chat_template`, for template families written here in the style of the real ones."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftkit.data import Conversation, Message, Template
from ftkit.data.template import NAMED

from .families import FAMILIES

TALKS = {
    "one exchange": (("user", "Where?"), ("assistant", "Lisbon.")),
    "two exchanges": (("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye"), ("assistant", "So long.")),
    "system": (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!")),
    "the same twice": (("user", "a"), ("assistant", "a"), ("user", "a"), ("assistant", "a")),
    "reasoning": (
        ("user", "2+2?"),
        ("assistant", "<think>\neasy\n</think>\n\n4"),
        ("user", "3+3?"),
        ("assistant", "<think>\nalso\n</think>\n\n6"),
    ),
}


def talk(turns: tuple[tuple[str, str], ...]) -> Conversation:
    return Conversation(tuple(Message(role, text) for role, text in turns))


def without_template(tokenizer: Any) -> Any:
    own = copy.deepcopy(tokenizer)
    own.chat_template = None
    return own


@pytest.mark.parametrize("name", TALKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_the_templates_and_the_mask_covers_the_answers(
    family: str, name: str, starter_tokenizer: Any
) -> None:
    tokenizer = FAMILIES[family].tokenizer(starter_tokenizer)
    example = talk(TALKS[name])
    encoded = Template(tokenizer).encode(example)
    turns = [message.as_dict() for message in example.messages]
    expected = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
    ids = encoded.ids.tolist()
    appended = len(ids) - len(expected)
    assert ids[: len(expected)] == expected
    assert ids[len(expected) :] == [tokenizer.eos_token_id] * appended
    assert appended in (0, 1)

    trained = "".join(
        tokenizer.decode([token]) if taught else "\0" for token, taught in zip(ids, encoded.mask, strict=True)
    )
    pieces = [piece for piece in trained.split("\0") if piece.strip() not in ("", tokenizer.eos_token)]
    answers = [text for role, text in TALKS[name] if role == "assistant"]
    if family == "qwen-3":  # earlier reasoning is stripped, and the last turn always has its block
        answers = [text.split("</think>\n\n")[-1] for text in answers]
        assert pieces[-1].startswith("<think>")
    assert len(pieces) == len(answers)
    for piece, answer in zip(pieces, answers, strict=True):
        assert answer in piece
    asked = [text for role, text in TALKS[name] if role != "assistant" and len(text) > 1]
    assert not any(text in trained for text in asked)
    assert tokenizer.eos_token in trained


def test_a_turn_of_weight_zero_is_read_but_not_trained(starter_tokenizer: Any) -> None:
    turns = list(talk(TALKS["two exchanges"]).messages)
    turns[1] = Message("assistant", turns[1].content, weight=0)
    encoded = Template(starter_tokenizer).encode(Conversation(tuple(turns)))
    trained = starter_tokenizer.decode(encoded.ids[encoded.mask])
    assert trained == "So long.<|im_end|>"


def test_tool_calls_do_not_vanish_in_a_template_that_knows_none(starter_tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    example = Conversation((Message("user", "Where?"), Message("assistant", "", (call,))))
    encoded = Template(starter_tokenizer).encode(example)
    assert '"name": "look"' in starter_tokenizer.decode(encoded.ids[encoded.mask])


# As the families define it: <s> stands for BOS, </s> for EOS, brackets around what is trained.
NAMED_TEXTS = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\n⟦So long.<|im_end|>⟧\n⟦</s>⟧",
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\n⟦Hello!</s>⟧\n\n"
    "### Instruction:\nBye\n\n### Response:\n⟦So long.</s>⟧\n\n",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\n⟦Hello!</s>⟧\n"
    "<|user|>\nBye</s>\n<|assistant|>\n⟦So long.</s>⟧\n",
    "llama2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]⟦ Hello! </s>⟧"
    "<s>[INST] Bye [/INST]⟦ So long. </s>⟧",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello!<|eot_id|>⟧"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦So long.<|eot_id|></s>⟧",
    "mistral": "<s>[INST] Be brief.\n\nHi [/INST]⟦ Hello!</s>⟧[INST] Bye [/INST]⟦ So long.</s>⟧",
    "gemma": "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n"
    "⟦Hello!<end_of_turn>⟧\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    "⟦So long.<end_of_turn>⟧\n⟦</s>⟧",
    "phi3": "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n⟦Hello!<|end|>⟧\n"
    "<|user|>\nBye<|end|>\n<|assistant|>\n⟦So long.<|end|>\n</s>⟧",
    "plain": "Be brief.\nHi\n⟦Hello!</s>⟧\nBye\n⟦So long.</s>⟧\n",
}


def test_every_named_template_is_written_out_here() -> None:
    assert set(NAMED_TEXTS) == set(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_named_templates_are_those_of_the_families_token_by_token(name: str, starter_tokenizer: Any) -> None:
    bare = without_template(starter_tokenizer)
    marks = re.findall(r"<\|\w+\|>|<\w+_of_turn>|\[/?INST\]|</?s>", NAMED_TEXTS[name])
    bare.add_special_tokens({"additional_special_tokens": sorted(set(marks) - {"<s>", "</s>"})})
    bare.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    turns = (("system", "Be brief."), *TALKS["two exchanges"])
    turns = tuple((role, f" {text} " if name in ("llama3", "gemma") else text) for role, text in turns)
    encoded = Template(bare, template=name).encode(talk(turns))
    text, inside = "", []
    for piece in re.split("(⟦.*?⟧)", NAMED_TEXTS[name], flags=re.DOTALL):
        text += piece.strip("⟦⟧")
        inside += [piece.startswith("⟦")] * len(piece.strip("⟦⟧"))
    whole = bare(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, mask = whole["input_ids"], [inside[start] for start, _ in whole["offset_mapping"]]
    assert bare.convert_ids_to_tokens(encoded.ids) == bare.convert_ids_to_tokens(ids)
    assert encoded.mask.tolist() == mask


@pytest.mark.parametrize("name", NAMED)
def test_a_tools_result_and_a_call_stand_in_every_named_template(name: str, starter_tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    turns = (Message("user", "Where?"), Message("assistant", "", (call,)), Message("tool", "at 7"))
    template = Template(without_template(starter_tokenizer), template=name)
    encoded = template.encode(Conversation((*turns, Message("assistant", "There."))))
    trained = starter_tokenizer.decode(encoded.ids[encoded.mask])
    assert '"name": "look"' in trained
    assert "There." in trained
    assert "at 7" in starter_tokenizer.decode(encoded.ids[~encoded.mask])


def test_a_reply_is_asked_for_as_it_was_learned(starter_tokenizer: Any) -> None:
    """The prompt of a chat is the start of what training saw, for every named template."""
    for name in NAMED:
        template = Template(without_template(starter_tokenizer), template=name)
        turns = tuple(Message(role, text) for role, text in TALKS["system"])
        prompt = template.render(turns[:2], add_generation_prompt=True)
        assert template.render(turns).startswith(prompt), name


def template_of(tokenizer: Any, family: str) -> Template:
    if family not in _templates:
        _templates[family] = Template(FAMILIES[family].tokenizer(tokenizer))
    return _templates[family]


_templates: dict[str, Template] = {}
_said = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Co")), min_size=1, max_size=30)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.lists(st.tuples(_said, _said), min_size=1, max_size=3))
def test_nothing_outside_the_answers_is_trained(
    starter_tokenizer: Any, family: str, pairs: list[tuple[str, str]]
) -> None:
    """Whatever is said, each answer lies in a span of its own, and every question outside of them."""
    turns = [turn for asked, said in pairs for turn in (("user", f"<{asked}>"), ("assistant", f"({said})"))]
    template = template_of(starter_tokenizer, family)
    example = talk(tuple(turns))
    text = template.render(example.messages)
    spans = template._assistant_spans(example, text)
    assert len(spans) == len(pairs)
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    outside = "\0".join(text[end:start] for end, start in zip(ends, starts, strict=True))
    for (start, end), (asked, said) in zip(spans, pairs, strict=True):
        assert f"({said})" in text[start:end]
        assert f"<{asked}>" in outside


@pytest.mark.parametrize(
    "answer", ["\U0001f600", " \u200b ", "na\u00efve \U0001f468\u200d\U0001f469", "a\n\n", "<|im_end|>x"]
)
def test_odd_characters_are_masked_whole(answer: str, starter_tokenizer: Any) -> None:
    """The mask is that of the offsets: every token that starts inside the turn, up to its last EOS."""
    example = talk((("user", "q\U0001f600"), ("assistant", answer), ("user", "r"), ("assistant", "b")))
    template = Template(starter_tokenizer)
    text = template.render(example.messages)
    offsets = starter_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    expected = [False] * len(offsets)
    encoded = template.encode(example)
    for start, end in template._assistant_spans(example, text):
        inside = [place for place, (begin, _) in enumerate(offsets) if start <= begin < end]
        last = max(place for place in inside if encoded.ids[place] == starter_tokenizer.eos_token_id)
        for place in inside:
            expected[place] = place <= last
    assert encoded.mask.tolist() == expected
