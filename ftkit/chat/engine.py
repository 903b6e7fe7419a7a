"""Replies token by token: sampling over a KV cache, in short turns that leave room for training steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ftkit.chat.detokenize import Detokenizer
from ftkit.chat.inference import Which, end_ids, inference_turn, room_after
from ftkit.errors import FtkitError

if TYPE_CHECKING:
    import torch

    from ftkit.data import Message, Template
    from ftkit.models import Gate, LoadedModel

Finish = Literal["end", "length", "stopped"]

TOKENS_A_TURN = 8
SECONDS_A_TURN = 0.5
SECONDS_A_FREE_TURN = 0.05  # with nobody waiting a turn is only as long as one update of the screen


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Raises
    ------
    FtkitError
        When a value is out of its range.
    """

    max_new_tokens: int = 256
    """Longest reply, in tokens."""
    temperature: float = 0.7
    """0 always takes the most likely token; higher is more varied."""
    top_p: float = 0.95
    """Choose among the most likely tokens that together have this probability (nucleus sampling)."""
    top_k: int = 0
    """Choose among so many most likely tokens. 0: all."""
    repetition_penalty: float = 1.0
    """Above 1: words already used become less likely (Keskar et al. 2019, arXiv:1909.05858)."""
    seed: int | None = None
    """The same seed gives the same reply. None: a new one each time."""

    def __post_init__(self) -> None:
        bounds = {
            "max_new_tokens": (1, 1_000_000),
            "temperature": (0.0, 5.0),
            "top_p": (0.0, 1.0),
            "top_k": (0, 1_000_000),
            "repetition_penalty": (0.1, 10.0),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if value is None and name == "seed":
                continue
            whole = isinstance(low, int)
            right_kind = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if not right_kind or not low <= value <= high:
                kind = "a whole number" if whole else "a number"
                msg = f"{name} is {kind} from {low} to {high} (given: {value!r})."
                raise FtkitError(msg, "Change this sampling setting.")


@dataclass(frozen=True)
class Piece:
    """A step of a reply: the text that became complete, and how far the reply is."""

    text: str
    tokens: int
    """Tokens generated so far."""
    finish: Finish | None = None
    """Set on the last piece: `end` (the model ended its reply), `length` (cut off) or `stopped`."""


def stream(
    loaded: LoadedModel,
    messages: Sequence[Message],
    *,
    which: Which = "adapter",
    sampling: Sampling | None = None,
    template: Template | None = None,
    cancelled: threading.Event | None = None,
) -> Iterator[str]:
    """The text of `generate`, piece by piece."""
    pieces = generate(
        loaded, messages, which=which, sampling=sampling, template=template, cancelled=cancelled
    )
    return (piece.text for piece in pieces if piece.text)


def generate(
    loaded: LoadedModel,
    messages: Sequence[Message],
    *,
    which: Which = "adapter",
    sampling: Sampling | None = None,
    template: Template | None = None,
    cancelled: threading.Event | None = None,
) -> Iterator[Piece]:
    """Reply to `messages`, one short turn of `loaded.gate` at a time.

    While something else waits at the gate a turn lasts up to 8 tokens or half a second, otherwise until the
    screen can show something new. The gate is never held while a piece is being consumed.

    Parameters
    ----------
    which
        `adapter`: the model as trained so far; `base`: the same weights, the adapter switched off.
    template
        Renders the conversation. Default: the tokenizer's own chat template.
    cancelled
        Set it from any thread: the reply ends before the next token.

    Yields
    ------
    Piece
        The last one has `finish` set.

    Raises
    ------
    FtkitError
        When the conversation does not fit the model's context.
    ModelError
        When there is no base model to be had from these weights.
    """
    from ftkit.data import Template

    sampling = sampling or Sampling()
    cancelled = cancelled or threading.Event()
    prompt = (template or Template(loaded.tokenizer)).prompt_ids(list(messages))
    room = room_after(loaded, len(prompt))
    limit = sampling.max_new_tokens if room is None else min(room, sampling.max_new_tokens)
    decoding = _Decoding(loaded, prompt, sampling)
    text = Detokenizer(loaded.tokenizer)
    ends = end_ids(loaded)

    new = ""
    finish: Finish | None = "stopped" if cancelled.is_set() else None
    while finish is None:
        with inference_turn(loaded, which, "chat") as model:
            started, taken = time.monotonic(), 0
            while finish is None:
                token = decoding.step(model)
                taken += 1
                if token in ends:
                    finish = "end"
                    break
                new += text.add(token)
                if decoding.tokens >= limit:
                    finish = "length"
                elif cancelled.is_set():
                    finish = "stopped"
                elif _turn_is_over(taken, time.monotonic() - started, loaded.gate):
                    break
        if finish is None:
            yield Piece(new, decoding.tokens)
            new = ""
            finish = "stopped" if cancelled.is_set() else None
    yield Piece(new + text.flush(cut_off=finish != "end"), decoding.tokens, finish)


def _turn_is_over(taken: int, seconds: float, gate: Gate) -> bool:
    if taken < TOKENS_A_TURN and seconds < SECONDS_A_FREE_TURN:
        return False
    if not gate.waiting:
        return seconds >= SECONDS_A_FREE_TURN
    return taken >= TOKENS_A_TURN or seconds >= SECONDS_A_TURN


class _Decoding:
    """One reply in the making: its KV cache and its own random generator (the trainer's is left alone)."""

    def __init__(self, loaded: LoadedModel, prompt: list[int], sampling: Sampling) -> None:
        import torch

        from ftkit.fast.quick import quick_cache

        self.tokens = 0
        self._device = next(loaded.model.parameters()).device
        self._ids = torch.tensor([prompt], device=self._device)
        self._cache: Any = quick_cache(loaded.model)
        self._penalty, self._choice = _processors(sampling)
        self._generator: torch.Generator | None = None
        if sampling.temperature > 0:
            self._generator = torch.Generator()  # on the CPU: one seed, one reply, whatever the device
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)

    def step(self, model: Any) -> int:
        """The next token; the first call reads the prompt."""
        import torch

        from ftkit.models.prompts import called, prompt_cache, prompt_length

        if not self._cache.get_seq_length():
            prompt_cache(model, 1, self._cache)
        new = self._ids[:, self._cache.get_seq_length() - prompt_length(model) :]
        logits = called(model)(
            input_ids=new, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        ).logits
        scores = self._penalty(self._ids, logits[:, -1].float())
        if self._generator is None:
            token = scores.argmax(dim=-1, keepdim=True)
        else:
            probabilities = self._choice(self._ids, scores).softmax(dim=-1).cpu()
            token = torch.multinomial(probabilities, 1, generator=self._generator).to(self._device)
        self._ids = torch.cat([self._ids, token], dim=1)
        self.tokens += 1
        return int(token)


def _processors(sampling: Sampling) -> tuple[Any, Any]:
    """What every choice is subject to, and what only a random one is."""
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    penalty, choice = LogitsProcessorList(), LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        penalty.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature > 0:
        choice.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_k:
            choice.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            choice.append(TopPLogitsWarper(float(sampling.top_p)))
    return penalty, choice
