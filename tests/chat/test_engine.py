"""Replies token by token: right tokens, short turns, nothing left changed for the trainer."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ftkit.chat import Piece, Sampling, generate, stream
from ftkit.chat.engine import TOKENS_A_TURN
from ftkit.chat.inference import inference_turn
from ftkit.data import Message, Template
from ftkit.errors import FtkitError, ModelError
from ftkit.models import Gate, LoadedModel, base_model

GREEDY = Sampling(max_new_tokens=24, temperature=0)
ASK = [Message("user", "Anna from Lisbon needs four lamps.")]


def reply(loaded: LoadedModel, sampling: Sampling = GREEDY, **options: Any) -> str:
    return "".join(stream(loaded, ASK, sampling=sampling, **options))


def by_transformers(loaded: LoadedModel, max_new_tokens: int = 24) -> str:
    prompt = torch.tensor([Template(loaded.tokenizer).prompt_ids(ASK)])
    out = loaded.model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )
    return loaded.tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)


def test_greedy_replies_are_those_of_transformers(loaded: LoadedModel) -> None:
    assert reply(loaded) == by_transformers(loaded).rstrip("\N{REPLACEMENT CHARACTER}")


def test_base_is_the_model_without_its_adapter(loaded: LoadedModel) -> None:
    with base_model(loaded):
        expected = by_transformers(loaded)
    assert reply(loaded, which="base") == expected.rstrip("\N{REPLACEMENT CHARACTER}")
    assert reply(loaded, which="base") != reply(loaded, which="adapter")


def test_a_reply_ends_at_any_end_token(loaded: LoadedModel) -> None:
    ids = loaded.tokenizer(reply(loaded), add_special_tokens=False)["input_ids"]
    loaded.model.generation_config.eos_token_id = [ids[0], 2]
    assert list(generate(loaded, ASK, sampling=GREEDY)) == [Piece("", 1, "end")]


def test_a_reply_is_cut_off_at_max_new_tokens(loaded: LoadedModel) -> None:
    last = list(generate(loaded, ASK, sampling=Sampling(max_new_tokens=5, temperature=0)))[-1]
    assert (last.tokens, last.finish) == (5, "length")


def test_the_same_seed_gives_the_same_reply(loaded: LoadedModel) -> None:
    def sampled(seed: int | None) -> str:
        return reply(loaded, Sampling(max_new_tokens=24, temperature=1.5, top_p=0.99, top_k=200, seed=seed))

    assert sampled(7) == sampled(7)
    assert len({sampled(1), sampled(2), sampled(3)}) > 1
    assert len({sampled(None) for _ in range(4)}) > 1


def test_top_k_of_one_is_greedy(loaded: LoadedModel) -> None:
    assert reply(loaded, Sampling(max_new_tokens=24, temperature=2.0, top_k=1)) == reply(loaded)


def test_a_repetition_penalty_changes_a_repeating_reply(loaded: LoadedModel) -> None:
    penalised = Sampling(max_new_tokens=24, temperature=0, repetition_penalty=3.0)
    assert reply(loaded, penalised) != reply(loaded)


def test_sampling_leaves_the_trainers_random_numbers_alone(loaded: LoadedModel) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    reply(loaded, Sampling(max_new_tokens=8, seed=11))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("which", ["base", "adapter"])
def test_the_trainer_finds_the_model_as_it_left_it(loaded: LoadedModel, which: str) -> None:
    loaded.model.train()
    before = {name: p.requires_grad for name, p in loaded.model.named_parameters()}
    pieces = generate(loaded, ASK, which=which, sampling=GREEDY)
    next(pieces)  # in the middle of a reply a training step must find its model
    assert loaded.model.training
    assert loaded.gate.holder is None
    list(pieces)
    assert {name: p.requires_grad for name, p in loaded.model.named_parameters()} == before
    ids = torch.tensor([[3, 4, 5]])
    loaded.model(input_ids=ids, labels=ids).loss.backward()
    grads = [p.grad for name, p in loaded.model.named_parameters() if "lora_A" in name]
    assert any(grad is not None and bool(grad.abs().sum() > 0) for grad in grads)


def test_an_error_inside_a_turn_gives_gate_and_mode_back(loaded: LoadedModel) -> None:
    loaded.model.train()
    with pytest.raises(ZeroDivisionError), inference_turn(loaded, "base", "chat"):
        raise ZeroDivisionError
    assert loaded.model.training
    assert loaded.gate.holder is None


class _Wanted(Gate):
    """A gate at which somebody always waits."""

    @property
    def waiting(self) -> int:
        return 1


def test_a_waiting_trainer_gets_its_turn_within_a_few_tokens(loaded: LoadedModel) -> None:
    loaded.gate = _Wanted()
    counts = [piece.tokens for piece in generate(loaded, ASK, sampling=GREEDY)]
    assert counts[0] <= TOKENS_A_TURN
    assert max(b - a for a, b in itertools.pairwise(counts)) <= TOKENS_A_TURN


def test_training_steps_go_on_during_a_reply(loaded: LoadedModel) -> None:
    steps, stop = [0], threading.Event()

    def train() -> None:
        while not stop.is_set():
            with loaded.gate.turn("training"):
                steps[0] += 1
                time.sleep(0.002)

    trainer = threading.Thread(target=train)
    trainer.start()
    seen = [
        steps[0]
        for _ in generate(loaded, ASK, sampling=Sampling(max_new_tokens=100, temperature=1.5, seed=4))
    ]
    stop.set()
    trainer.join()
    assert seen[-1] > seen[0]


def test_cancelling_ends_the_reply_before_the_next_token(loaded: LoadedModel) -> None:
    cancelled = threading.Event()
    pieces = generate(loaded, ASK, sampling=Sampling(max_new_tokens=400, temperature=0), cancelled=cancelled)
    first = next(pieces)
    cancelled.set()
    rest = list(pieces)
    assert (rest[-1].tokens, rest[-1].finish) == (first.tokens, "stopped")


def test_a_character_that_was_cut_in_two_is_left_out(loaded: LoadedModel) -> None:
    for limit in range(1, 24):
        text = reply(loaded, Sampling(max_new_tokens=limit, temperature=0))
        assert not text.endswith("\N{REPLACEMENT CHARACTER}")


def test_cancelled_from_the_start_says_nothing(loaded: LoadedModel) -> None:
    cancelled = threading.Event()
    cancelled.set()
    assert list(generate(loaded, ASK, cancelled=cancelled)) == [Piece("", 0, "stopped")]


def test_a_prompt_longer_than_the_context_is_refused(loaded: LoadedModel) -> None:
    long = [Message("user", "quick brown fox " * 300)]
    with pytest.raises(FtkitError, match=r"tokens long; this model can look at 512"):
        next(stream(loaded, long, sampling=GREEDY))


def test_a_reply_stops_where_the_context_ends(tiny: Callable[..., LoadedModel]) -> None:
    loaded = tiny(max_position_embeddings=48)
    prompt = len(Template(loaded.tokenizer).prompt_ids(ASK))
    last = list(generate(loaded, ASK, sampling=Sampling(max_new_tokens=400, temperature=0)))[-1]
    assert (last.tokens, last.finish) == (48 - prompt, "length")


def test_a_fully_trained_model_has_no_base(fully_trained: LoadedModel) -> None:
    assert reply(fully_trained)
    with pytest.raises(ModelError, match="no longer in memory"):
        reply(fully_trained, which="base")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("top_k", True),
        ("seed", -1),
        ("repetition_penalty", "high"),
    ],
)
def test_sampling_out_of_range_names_field_and_value(name: str, value: Any) -> None:
    with pytest.raises(FtkitError, match=name) as caught:
        Sampling(**{name: value})
    assert repr(value) in caught.value.message
