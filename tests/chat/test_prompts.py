"""Learned prompts: chat and evaluation read them before the text, and the base side does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ftkit.chat import ChatSession, Sampling
from ftkit.data import Message, Template
from ftkit.evaluate.generate import greedy_replies
from ftkit.models import LoadedModel
from ftkit.recipe import PrefixTuning, PromptTuning

SHORT = Sampling(max_new_tokens=6, temperature=0)
CUT = "\N{REPLACEMENT CHARACTER}"
"""A character whose last bytes did not come is left out of a reply."""
METHODS = [PromptTuning(tokens=5), PrefixTuning(tokens=5)]


@pytest.fixture(params=METHODS, ids=lambda method: method.type)
def prompted(request: Any, tiny: Callable[..., LoadedModel]) -> LoadedModel:
    loaded = tiny(request.param)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(
            2
        )  # else what ran before decides whether it says a control token, which replies leave out
        loaded.model.prompt_encoder["default"].embedding.weight.normal_(std=1.0)
    return loaded


def by_peft(model: Any, ids: list[int], count: int = 6) -> list[int]:
    """The likeliest tokens, the whole text read anew for each, through PEFT's own forward."""
    made = list(ids)
    with torch.no_grad():
        for _ in range(count):
            made.append(int(model(input_ids=torch.tensor([made])).logits[0, -1].argmax()))
    return made[len(ids) :]


def test_a_reply_follows_the_learned_prompt_and_the_base_side_does_not(prompted: LoadedModel) -> None:
    ids = Template(prompted.tokenizer).prompt_ids([Message("user", "Hello")])
    prompted.model.eval()
    wanted = by_peft(prompted.model, ids)
    base = by_peft(prompted.model.get_base_model(), ids)
    assert wanted != base
    replies = ChatSession(prompted, sampling=SHORT).send("Hello", mode="both")
    for which, tokens in (("adapter", wanted), ("base", base)):
        assert replies[which].text == prompted.tokenizer.decode(tokens).rstrip(CUT)


def test_a_second_message_goes_on(prompted: LoadedModel) -> None:
    session = ChatSession(prompted, sampling=SHORT)
    first = session.send("Hello")["adapter"].text
    second = session.send("And then?")["adapter"].text
    messages = [Message("user", "Hello"), Message("assistant", first), Message("user", "And then?")]
    ids = Template(prompted.tokenizer).prompt_ids(messages)
    assert second == prompted.tokenizer.decode(by_peft(prompted.model, ids)).rstrip(CUT)


@pytest.mark.parametrize("which", ["adapter", "base"])
def test_many_prompts_at_once_are_answered_as_one_by_one(prompted: LoadedModel, which: str) -> None:
    prompted.model.eval()
    prompts = [[7, 8, 9, *range(20, 20 + length)] for length in (3, 1, 6)]
    model = prompted.model if which == "adapter" else prompted.model.get_base_model()
    found = dict(greedy_replies(prompted, prompts, which=which, max_new_tokens=5))
    assert found == {number: by_peft(model, ids, 5) for number, ids in enumerate(prompts)}
