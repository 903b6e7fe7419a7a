"""Batched greedy replies are the replies one by one."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from ftkit.chat import Sampling, generate
from ftkit.chat.inference import end_ids
from ftkit.data import Message, Template
from ftkit.errors import FtkitError
from ftkit.evaluate.generate import greedy_replies
from ftkit.models import LoadedModel

WORDS = ["Anna", "Lisbon", "needs", "four", "lamps", "by", "Monday", "quick", "brown", "fox", "rains"]
HALF = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture
def prompts(loaded: LoadedModel) -> list[list[int]]:
    """Prompts of many lengths, half of them with a common system prompt."""
    rng = random.Random(5)
    template = Template(loaded.tokenizer)
    made = []
    for number in range(23):
        system = [Message("system", "Extract the order as JSON.")] if number % 2 else []
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 30)))
        made.append(template.prompt_ids([*system, Message("user", text)]))
    return made


def one_by_one(loaded: LoadedModel, prompts: list[list[int]], which: str, limit: int) -> list[str]:
    class Rendered:
        def __init__(self, ids: list[int]) -> None:
            self.ids = ids

        def prompt_ids(self, _messages: Any) -> list[int]:
            return self.ids

    sampling = Sampling(max_new_tokens=limit, temperature=0)
    return [
        "".join(
            piece.text
            for piece in generate(loaded, [], which=which, sampling=sampling, template=Rendered(ids))
        )
        for ids in prompts
    ]


@pytest.mark.parametrize("which", ["base", "adapter"])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_batched_replies_are_the_replies_one_by_one(
    loaded: LoadedModel, prompts: list[list[int]], which: str, batch_size: int
) -> None:
    # tokens that these random models say often end a reply: rows leave the batch at different times
    said = dict(greedy_replies(loaded, prompts, which=which, max_new_tokens=20))
    common = sorted({reply[3] for reply in said.values()})[:3]
    loaded.model.generation_config.eos_token_id = common
    found = dict(greedy_replies(loaded, prompts, which=which, max_new_tokens=20, batch_size=batch_size))
    texts = [loaded.tokenizer.decode(found[n], skip_special_tokens=True) for n in range(len(prompts))]
    alone = one_by_one(loaded, prompts, which, 20)
    assert [text.rstrip(HALF) for text in texts] == [text.rstrip(HALF) for text in alone]
    assert len({len(reply) for reply in found.values()}) > 1
    assert not any(token in end_ids(loaded) for reply in found.values() for token in reply)


def test_prompts_that_are_all_the_same(loaded: LoadedModel, prompts: list[list[int]]) -> None:
    found = dict(greedy_replies(loaded, [prompts[0]] * 3, max_new_tokens=8))
    alone = dict(greedy_replies(loaded, [prompts[0]], max_new_tokens=8))
    assert found == dict.fromkeys(range(3), alone[0])


def test_progress_reaches_one(loaded: LoadedModel, prompts: list[list[int]]) -> None:
    told: list[tuple[str, float | None]] = []
    list(greedy_replies(loaded, prompts, max_new_tokens=2, progress=lambda *news: told.append(news)))
    assert told == [("16 of 23 rows", 16 / 23), ("23 of 23 rows", 1.0)]


def test_cancelling_gives_what_is_done(loaded: LoadedModel, prompts: list[list[int]]) -> None:
    cancelled = threading.Event()
    replies = greedy_replies(
        loaded,
        prompts,
        max_new_tokens=2,
        batch_size=4,
        cancelled=cancelled,
        progress=lambda *_: cancelled.set(),
    )
    assert len(list(replies)) == 4


def test_a_prompt_that_fills_the_context_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(FtkitError, match="can look at 512"):
        list(greedy_replies(loaded, [[5] * 512]))


def test_the_gate_is_free_between_batches(loaded: LoadedModel, prompts: list[list[int]]) -> None:
    holders = []
    for _ in greedy_replies(loaded, prompts, max_new_tokens=2, batch_size=4):
        holders.append(loaded.gate.holder)
    assert set(holders) == {None}
