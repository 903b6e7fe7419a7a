"""Random conversations: written in any format they come back whole, and only what answers say is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ftkit.data import Conversation, Message, Template, as_conversation, load, to_messages
from ftkit.data.example import images_of

from .families import FAMILIES

Turns = tuple[Message, ...]
_PIECES = [
    *(" ", "\n", "a", "b c", "é", "\U0001f600", "\u200d", '"', "{}", "\\", "\ue000", "0:", "\ue001", "\0"),
    *("<|im_end|>", "<|im_start|>assistant\n", "<|im_start|>user\n", "</s>", "[/INST]", "[INST]", "<|end|>"),
    *("<end_of_turn>", "<|eot_id|>", "<think>\n", "</think>\n\n", "<tool_call>", "</tool_call>"),
    *("<|assistant|>\n", "<eos>", "<start_of_turn>model\n", "\ue0000:0\ue001"),
]
_said = (
    st.lists(st.sampled_from(_PIECES), min_size=1, max_size=6).map("".join)
    | st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
).filter(lambda text: text.strip() and "<image>" not in text)
_call = st.builds(
    lambda name, arguments: {"type": "function", "function": {"name": name, "arguments": arguments}},
    st.sampled_from(["look", "go"]),
    st.dictionaries(st.sampled_from(["at", "by"]), _said, max_size=2),
)
_weight = st.sampled_from([1.0, 1.0, 0.0])
_exchange = st.tuples(_said, _said, _weight)


@st.composite
def conversations(draw: Any, *, calls: bool) -> Turns:
    """A system message or none, then exchanges, some of them by way of a tool."""
    turns = [Message("system", draw(_said))] if draw(st.booleans()) else []
    for asked, answer, weight in draw(st.lists(_exchange, min_size=1, max_size=3)):
        turns.append(Message("user", asked))
        if calls and draw(st.booleans()):
            turns.append(Message("assistant", "", (draw(_call),), draw(_weight)))
            turns.append(Message("tool", draw(_said)))
        turns.append(Message("assistant", answer, weight=weight))
    return tuple(turns)


# Formats: how a conversation is written in each, and what must come back


def _openai(turns: Turns) -> list[dict[str, Any]]:
    return [turn.as_dict() | ({"weight": turn.weight} if turn.weight != 1 else {}) for turn in turns]


def _messages(turns: Turns) -> dict[str, Any]:
    return {"messages": _openai(turns)}


def _messages_as_json(turns: Turns) -> dict[str, Any]:
    return {"messages": json.dumps(_openai(turns))}


def _sharegpt(turns: Turns) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}
    written = []
    for turn in turns:
        if turn.tool_calls:
            call = {"from": "function_call", "value": json.dumps(turn.tool_calls[0]["function"])}
            written.append(call | {"weight": turn.weight})
        else:
            written.append({"from": names[turn.role], "value": turn.content, "weight": turn.weight})
    return {"conversations": written}


def _other_tags(turns: Turns) -> dict[str, Any]:
    names = {"user": "prompter", "assistant": "bot", "system": "system"}
    return {
        "dialog": [
            {"speaker": names[turn.role], "text": turn.content, "weight": turn.weight} for turn in turns
        ]
    }


def _split(turns: Turns) -> tuple[str, list[list[str]], str, str]:
    system = turns[0].content if turns[0].role == "system" else ""
    rest = turns[1:] if system else turns
    pairs = [[rest[n].content, rest[n + 1].content] for n in range(0, len(rest), 2)]
    return system, pairs[:-1], *pairs[-1]


def _alpaca(turns: Turns) -> dict[str, Any]:
    system, history, asked, answer = _split(turns)
    return {"instruction": asked, "input": "", "output": answer, "history": history, "system": system}


def _prompt_completion(turns: Turns) -> dict[str, Any]:
    system, history, asked, answer = _split(turns)
    return {"prompt": asked, "completion": answer, "history": history, "system": system}


def _preference(turns: Turns) -> dict[str, Any]:
    return {"prompt": _openai(turns[:-1]), "chosen": turns[-1].content, "rejected": turns[-1].content + "!"}


def _implicit_preference(turns: Turns) -> dict[str, Any]:
    other = (*turns[:-1], Message("assistant", turns[-1].content + "!"))
    return {"chosen": _openai(turns), "rejected": _openai(other)}


def _rated(turns: Turns) -> dict[str, Any]:
    return {"messages": _openai(turns), "label": True}


WITH_CALLS = (_messages, _messages_as_json, _sharegpt, _implicit_preference, _rated)
PLAIN = (*WITH_CALLS, _other_tags)
PAIRS = (_alpaca, _prompt_completion, _preference)


def _same(write: Callable[[Turns], dict[str, Any]], turns: Turns, *, weights: bool) -> None:
    row = write(turns)
    dataset = load([row, row], held_out_fraction=0)
    assert not dataset.refused
    assert [one.row for one in dataset.train] == [0, 1]
    found = as_conversation(dataset.train[0])
    assert isinstance(found, Conversation)
    expected = turns if weights else tuple(Message(turn.role, turn.content) for turn in turns)
    assert found.messages == expected
    (written,) = to_messages([found])
    again = as_conversation(load([json.loads(json.dumps(written))], held_out_fraction=0).train[0])
    assert isinstance(again, Conversation)
    assert [(turn.role, turn.content, turn.weight) for turn in again.messages] == [
        (turn.role, turn.content, turn.weight) for turn in expected
    ]
    functions = [[call["function"] for call in turn.tool_calls] for turn in again.messages]
    assert functions == [[call["function"] for call in turn.tool_calls] for turn in expected]
    assert not images_of(again)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WITH_CALLS), conversations(calls=True))
def test_order_and_content_are_kept_with_tool_calls(write: Any, turns: Turns) -> None:
    _same(write, turns, weights=True)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PLAIN), conversations(calls=False))
def test_order_and_content_are_kept_in_formats_of_turns(write: Any, turns: Turns) -> None:
    _same(write, turns, weights=True)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PAIRS), conversations(calls=False))
def test_order_and_content_are_kept_in_formats_of_columns(write: Any, turns: Turns) -> None:
    _same(write, tuple(Message(turn.role, turn.content) for turn in turns), weights=False)


# Masks: the spans that transformers itself sees between the template's generation marks

_templates: dict[str, Template] = {}


def _oracle(template: Template, marked: str, turns: Turns) -> tuple[list[int], list[bool]]:
    from transformers.utils.chat_template_utils import render_jinja_template

    tokenizer = template.tokenizer
    talk = [message.as_dict() for message in template._known(turns)]
    rendered, spans = render_jinja_template(
        conversations=[talk],
        chat_template=marked,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    answers = [turn for turn in turns if turn.role == "assistant"]
    assert len(spans[0]) == len(answers)
    trained = [span for span, turn in zip(spans[0], answers, strict=True) if turn.weight]
    whole = tokenizer(rendered[0], add_special_tokens=False, return_offsets_mapping=True)
    mask = [any(start <= at < end for start, end in trained) for at, _ in whole["offset_mapping"]]
    return whole["input_ids"], mask


def _check(family: str, turns: Turns, tokenizer: Any) -> None:
    """The row is accepted, and its tokens and mask are exact."""
    if family not in _templates:
        _templates[family] = Template(FAMILIES[family].tokenizer(tokenizer))
    template = _templates[family]
    encoded = template.encode(Conversation(turns))
    ids, mask = _oracle(template, FAMILIES[family].marked, turns)
    assert encoded.ids.tolist()[: len(ids)] == ids
    assert encoded.mask.tolist()[: len(ids)] == mask
    appended = len(encoded.ids) - len(ids)
    assert encoded.ids.tolist()[len(ids) :] == [template.tokenizer.eos_token_id] * appended
    assert appended <= any(mask)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), conversations(calls=False))
def test_the_mask_is_exactly_what_the_answers_say(starter_tokenizer: Any, family: str, turns: Turns) -> None:
    _check(family, turns, starter_tokenizer)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["llama-3", "qwen-2.5", "qwen-3", "mistral"]), conversations(calls=True))
def test_the_mask_is_exact_with_tool_calls(starter_tokenizer: Any, family: str, turns: Turns) -> None:
    _check(family, turns, starter_tokenizer)


def test_reasoning_with_tool_calls_is_within_reach(starter_tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    turns = (
        Message("user", "Where?"),
        Message("assistant", "<think>\nlook\n</think>\n\n", (call,)),
        Message("tool", "here"),
        Message("assistant", "<think>\nseen\n</think>\n\nHere."),
        Message("user", "Sure?"),
        Message("assistant", "<think>\nyes\n</think>\n\nYes."),
    )
    _check("qwen-3", turns, starter_tokenizer)
