"""Masks against `apply_chat_template`, for template families written here in the style of the real ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftkit.data import Conversation, Message, Template

_LOOP = "{% for m in messages %}"
_CHATML = _LOOP + "{{'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n'}}{% endfor %}"
_GENERATE = "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
FAMILIES = {
    "chatml (qwen-2.5)": "{% if messages[0].role != 'system' %}{{'<|im_start|>system\nBe good.<|im_end|>\n'}}"
    "{% endif %}" + _CHATML + _GENERATE,
    "llama-3": "{{'<|begin|>'}}"
    + _LOOP
    + "{{'<|header|>' + m.role + '<|/header|>\n\n' + m.content | trim + '<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|header|>assistant<|/header|>\n\n'}}{% endif %}",
    "mistral": "{{'<s>'}}" + _LOOP + "{% if m.role == 'assistant' %}{{' ' + m.content + eos_token}}{% else %}"
    "{{'[INST] ' + m.content + ' [/INST]'}}{% endif %}{% endfor %}",
    "gemma": "{{'<bos>'}}" + _LOOP + "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{'<start_of_turn>' + role + '\n' + m.content | trim + '<im_end>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "phi": _LOOP + "{{'<|' + m.role + '|>\n' + m.content + '<|end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|assistant|>\n'}}{% else %}{{eos_token}}{% endif %}",
    "zephyr": _LOOP + "{{'<|' + m.role + '|>\n' + m.content + eos_token + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|assistant|>\n'}}{% endif %}",
    "qwen-3": "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    + _LOOP
    + "{% if m.role == 'assistant' %}{% set said = m.content %}{% set thought = '' %}"
    "{% if '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{'<|im_start|>assistant\n'}}{% if loop.index0 > ns.last %}{{'<think>\n' + thought + '\n</think>\n\n'}}"
    "{% endif %}{{said + '<|im_end|>\n'}}{% else %}"
    "{{'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n'}}{% endif %}{% endfor %}" + _GENERATE,
}
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


def with_template(tokenizer: Any, source: str) -> Any:
    own = copy.deepcopy(tokenizer)
    own.chat_template = source
    return own


@pytest.mark.parametrize("name", TALKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_the_templates_and_the_mask_covers_the_answers(
    family: str, name: str, starter_tokenizer: Any
) -> None:
    tokenizer = with_template(starter_tokenizer, FAMILIES[family])
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
    pieces = [piece for piece in trained.split("\0") if piece.strip()]
    answers = [text for role, text in TALKS[name] if role == "assistant"]
    if family == "qwen-3":  # earlier reasoning is stripped, and the last turn always has its block
        answers = [text.split("</think>\n\n")[-1] for text in answers]
        assert pieces[-1].startswith("<think>")
    assert len(pieces) == len(answers)
    for piece, answer in zip(pieces, answers, strict=True):
        assert answer in piece
    asked = [text for role, text in TALKS[name] if role != "assistant" and len(text) > 1]
    assert not any(text in trained for text in asked)
    assert tokenizer.eos_token in pieces[-1]


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


@pytest.mark.parametrize("name", ["chatml", "alpaca", "zephyr"])
def test_named_templates_train_the_answer_and_its_end(name: str, starter_tokenizer: Any) -> None:
    bare = with_template(starter_tokenizer, "")
    bare.chat_template = None
    encoded = Template(bare, template=name).encode(talk(TALKS["system"]))
    trained = bare.decode(encoded.ids[encoded.mask])
    assert trained.startswith("Hello!")
    assert bare.eos_token in trained
    assert "Be brief." in bare.decode(encoded.ids[~encoded.mask])


_said = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Co")), min_size=1, max_size=30)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.lists(st.tuples(_said, _said), min_size=1, max_size=3))
def test_nothing_outside_the_answers_is_trained(
    starter_tokenizer: Any, family: str, pairs: list[tuple[str, str]]
) -> None:
    """Whatever is said, each answer lies in a span of its own, and every question outside of them."""
    turns = [turn for asked, said in pairs for turn in (("user", f"<{asked}>"), ("assistant", f"({said})"))]
    template = Template(with_template(starter_tokenizer, FAMILIES[family]))
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
