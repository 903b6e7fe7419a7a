"""A causal language model and a batch to the log-probabilities of the batch's trained tokens.

Two ways. `Packed`: rows end to end without padding, attention within each row, logits for trained tokens
only. `Plain`: the model's own forward on padded rows. `choose` takes the first where the model's structure
allows it and a trial on the model itself agrees with the second, and says why where it does not.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ftkit.fast import attention
from ftkit.fast.loss import token_logprobs

IGNORED = -100
"""Label of a token that is not trained on."""


class LogProbs(Protocol):
    """How a batch becomes log-probabilities: (trained tokens of the batch,) float32, in order."""

    @property
    def packed(self) -> bool:
        """Whether batches are laid end to end rather than padded."""

    @property
    def reason(self) -> str:
        """Why this way was chosen."""

    def __call__(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Log-probabilities of the batch's trained tokens."""


@dataclass(frozen=True)
class Plain:
    """The model's own forward and logits; rows padded to the longest."""

    reason: str
    packed: bool = False

    def __call__(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with _half_precision(model):
            output = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
            )
        logits, targets = output.logits[:, :-1], batch["labels"][:, 1:]
        trained = targets != IGNORED
        return logits[trained].float().log_softmax(-1).gather(1, targets[trained][:, None])[:, 0]


@dataclass(frozen=True)
class Packed:
    """Rows end to end; the decoder runs on all of them, the output head on trained positions only."""

    reason: str
    packed: bool = True

    def __call__(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        base = _base(model)
        with attention.packed(), _half_precision(base):
            hidden = base.get_decoder()(
                input_ids=batch["input_ids"],
                position_ids=batch["position_ids"],
                cu_seqlens=batch["cu_seqlens"],
                use_cache=False,
            ).last_hidden_state
        targets = batch["labels"][0, 1:]
        trained = (targets != IGNORED).nonzero()[:, 0]
        head = base.get_output_embeddings()
        return token_logprobs(
            hidden[0, trained], head.weight, targets[trained], bias=getattr(head, "bias", None)
        )


def choose(model: torch.nn.Module, *, fast: bool = True) -> LogProbs:
    """Pick the way for `model`; sets its attention implementation when that is `Packed`."""
    if not fast:
        return Plain("compute.fast is off")
    base = _base(model)
    why_not = _obstacle(base)
    if why_not:
        return Plain(why_not)
    before = base.config._attn_implementation
    base.set_attn_implementation(attention.register())
    way = Packed("rows end to end, attention within each row, logits for trained tokens only")
    try:
        difference = _trial(base, way)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        base.set_attn_implementation(before)
        return Plain(f"{type(base).__name__} does not take packed rows ({type(error).__name__}: {error})")
    if difference > 0.1:
        base.set_attn_implementation(before)
        return Plain(
            f"{type(base).__name__} gives other numbers for packed rows (by {difference:.2g} nats a token)"
        )
    return way


_SCALED_LOGITS = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier_scale",
)


def _obstacle(base: Any) -> str | None:
    """Why the structure of the model rules packing out, or None."""
    name = type(base).__name__
    config = base.config.get_text_config()
    if not getattr(base, "_supports_attention_backend", False):
        return f"{name} has an attention of its own"
    if not isinstance(base.get_output_embeddings(), torch.nn.Linear):
        return f"{name} has no linear output head"
    scaled = [key for key in _SCALED_LOGITS if getattr(config, key, None) not in (None, 1, 1.0)]
    if scaled:
        return f"{name} scales its logits ({', '.join(scaled)})"
    return None


@torch.no_grad()
def _trial(base: Any, way: Packed) -> float:
    """Mean absolute difference, in nats a token, between packed and separate rows of a few fixed tokens."""
    vocabulary = base.get_output_embeddings().weight.shape[0]
    device = base.get_output_embeddings().weight.device
    rows = [torch.arange(1, length + 1, device=device) * 37 % vocabulary for length in (11, 7)]
    ids = torch.cat(rows)[None]
    starts = torch.tensor([0, 11, 18], dtype=torch.int32, device=device)
    labels = ids.clone()
    labels[0, [0, 11]] = IGNORED
    positions = torch.cat([torch.arange(len(row), device=device) for row in rows])[None]
    was_training = base.training
    base.eval()
    try:
        got = way(base, {"input_ids": ids, "position_ids": positions, "labels": labels, "cu_seqlens": starts})
        plain = Plain("")
        separate = (
            {"input_ids": row, "attention_mask": row.new_ones(row.shape), "labels": row} for row in rows
        )
        want = torch.cat([plain(base, {key: value[None] for key, value in row.items()}) for row in separate])
    finally:
        base.train(was_training)
    return (got - want).abs().mean().item()


def _base(model: Any) -> Any:
    """The transformers model inside a PEFT model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _half_precision(model: torch.nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Autocast where the weights are bfloat16: PEFT keeps adapters in float32, and float32 is slow."""
    first = next(iter(model.parameters()))
    base: Any = _base(model)
    if base.get_input_embeddings().weight.dtype == torch.bfloat16:
        return torch.autocast(first.device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
