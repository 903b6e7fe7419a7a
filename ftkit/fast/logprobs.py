"""A causal language model and a batch to the log-probabilities of the batch's trained tokens.

Two ways to lay rows out: end to end without padding, attention within each row; or padded, through the
model's own attention. Two ways to the log-probabilities: from the hidden states at trained positions only, or
from all logits. `choose` takes the fast ones where the model's structure allows them and a trial on the model
itself agrees with the plain ones, puts the other fast pieces in, and says what it chose and why.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from typing import Any

import torch

from ftkit.fast import attention, pieces
from ftkit.fast.distributions import Outputs
from ftkit.fast.loss import NOTHING, Extra, Logits, Scores, draw, plain_scores, token_scores
from ftkit.models.prompts import has_prompt, prompt_cache, prompt_length
from ftkit.recipe import Fast

IGNORED = -100
"""Label of a token that is not trained on."""
TOLERANCE = 0.1
"""Nats a token, on average, by which a trial in bfloat16 may differ from the plain way."""


@dataclass(frozen=True)
class LogProbs:
    """How a batch becomes log-probabilities of its trained tokens.

    Attributes
    ----------
    packed
        Whether batches are laid end to end rather than padded.
    logits
        What the model does to its logits, where the loss works on slices of trained rows; None: the model's
        own logits are used, all of them.
    reason
        Why rows are padded, or what packing means.
    report
        The other pieces.
    """

    packed: bool
    logits: Logits | None
    reason: str
    report: pieces.Report = field(default_factory=pieces.Report, compare=False)

    def __call__(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(trained tokens of the batch,) float32 log-probabilities, in order."""
        return self.scores(model, batch).logprobs

    def scores(
        self, model: torch.nn.Module, batch: dict[str, torch.Tensor], extra: Extra = NOTHING
    ) -> Scores:
        """Log-probability of each trained token of the batch, in order; entropy and hit where at hand."""
        out, targets = self.outputs(model, batch)
        if out.head is None:
            return plain_scores(out.states, targets, extra)
        return token_scores(out.states, out.head, targets, bias=out.bias, logits=out.logits, extra=extra)

    @torch.no_grad()
    def drawn(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The batch's labels, every trained token drawn anew from what the model says."""
        labels = batch["labels"].clone()
        out, _ = self.outputs(model, batch)
        labels[:, 1:][labels[:, 1:] != IGNORED] = draw(out.states, out.head, bias=out.bias, logits=out.logits)
        return labels

    def outputs(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[Outputs, torch.Tensor]:
        """What the model puts out where it predicts the batch's trained tokens, and these, in order."""
        base = _base(model)
        layout = ("position_ids", "cu_seqlens") if self.packed else ("attention_mask",)
        inputs = {name: batch[name] for name in ("input_ids", *layout)} | {"use_cache": False}
        if has_prompt(model):
            inputs |= _after_prompt(model, batch)
        targets = batch["labels"][:, 1:]
        trained = targets != IGNORED
        with attention.packed() if self.packed else contextlib.nullcontext(), _half_precision(base):
            if self.logits is None:
                made = base(**inputs).logits[:, :-1][trained].float()
                return Outputs(made), targets[trained]
            hidden = base.get_decoder()(**inputs).last_hidden_state[:, :-1][trained]
        head = base.get_output_embeddings()
        return Outputs(hidden, head.weight, getattr(head, "bias", None), self.logits), targets[trained]

    def describe(self) -> str:
        """What was chosen, for people: a line."""
        loss = "loss over trained tokens only" if self.logits else "loss over all logits"
        return "; ".join([self.reason, loss, *self.report.lines()])


def rewards(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(rows,) float32 scores of padded rows by a model with a head for one number, through its own code."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with _half_precision(_base(model)):
        logits: torch.Tensor = model(**inputs).logits
    return logits[:, 0].float()


def choose(model: torch.nn.Module, *, fast: Fast | bool = True, recompute: str = "off") -> LogProbs:
    """Pick the way for `model` and put the pieces in; packing sets its attention implementation."""
    wanted = Fast.of(fast)
    if not any(wanted.model_dump().values()):
        return LogProbs(False, None, "compute.fast is off")
    base = _base(model)
    plain = LogProbs(False, None, "")
    reference = _trial(model, plain) if wanted.attention or wanted.loss else None
    report = pieces.install(model, wanted, recompute)
    logits, no_loss = _logits(base) if wanted.loss else (None, "switched off")
    if logits is None:
        report.skipped["loss"] = no_loss
    why_padded = _obstacle(model) if wanted.attention else "compute.fast.attention is off"
    before = base.config._attn_implementation
    if not why_padded:
        base.set_attn_implementation(attention.register())
        packed = LogProbs(True, logits, "rows end to end, attention within each row", report)
        why_padded = _doubt(model, packed, reference)
        if not why_padded:
            return packed
        base.set_attn_implementation(before)
    padded = LogProbs(False, logits, f"rows padded: {why_padded}", report)
    doubt = _doubt(model, padded, reference)
    if doubt:  # the plain way is always right
        report.undo()
        return LogProbs(False, None, f"rows padded, no fast piece: {doubt}")
    return padded


def _doubt(model: torch.nn.Module, way: LogProbs, reference: torch.Tensor | None) -> str:
    """Why `way` cannot be used on the model; empty where a trial agrees with the plain way."""
    name = type(_base(model)).__name__
    try:
        got = _trial(model, way)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, IndexError) as error:
        return f"{name} does not take it ({type(error).__name__}: {str(error).splitlines()[0]:.200})"
    difference = 0.0 if reference is None else (got - reference).abs().mean().item()
    return "" if difference <= TOLERANCE else f"{name} gives other numbers (by {difference:.2g} nats a token)"


def _logits(base: Any) -> tuple[Logits | None, str]:
    """What the model does to its logits, if the fused loss can do the same; else None and the reason."""
    config = base.config.get_text_config()
    head = base.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        own = f"{type(base).__name__} has no linear output head"
        return None, f"the output head is under {type(head).__name__}" if hasattr(head, "weight") else own
    known = {
        "final_logit_softcapping": lambda value: Logits(softcap=float(value)),
        "logit_scale": lambda value: Logits(scale=float(value)),
        "logits_scaling": lambda value: Logits(scale=1 / float(value)),
    }
    found = {
        name: value
        for name in (*known, "lm_head_multiplier", "output_multiplier_scale")
        if (value := getattr(config, name, None)) not in (None, 1, 1.0)
    }
    if not found:
        return Logits(), ""
    (name, value), *more = found.items()
    if more or name not in known or not math.isfinite(float(value)):
        return None, f"{type(base).__name__} scales its logits ({', '.join(found)})"
    return known[name](value), ""


def _after_prompt(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Inputs for rows that have a learned prompt before them, as a cache that is not empty."""
    mask = batch["attention_mask"]
    before = mask.new_ones(len(mask), prompt_length(model))
    return {
        "attention_mask": torch.cat([before, mask], dim=1),
        "past_key_values": prompt_cache(model, len(mask)),
        "use_cache": True,
    }


def _obstacle(model: Any) -> str:
    """Why the structure of the model rules packing out; empty where it does not."""
    if has_prompt(model):
        return "a learned prompt stands before every row"
    base = _base(model)
    if not getattr(base, "_supports_attention_backend", False):
        return f"{type(base).__name__} has an attention of its own"
    weight = base.get_input_embeddings().weight
    if weight.is_cuda:  # row by row, a GPU waits for its driver: padding is faster there
        config = base.config.get_text_config()
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        if not attention.flash_takes(weight.dtype, size) or getattr(config, "attn_logit_softcapping", None):
            return "no flash attention for rows end to end on this GPU, in this precision"
    return ""


@torch.no_grad()
def _trial(model: torch.nn.Module, way: LogProbs) -> torch.Tensor:
    """Log-probabilities of two rows of a few fixed tokens, by `way`; rows apart where it pads."""
    base = _base(model)
    embedding = base.get_input_embeddings().weight
    vocabulary, device = embedding.shape[0], embedding.device
    rows = [torch.arange(1, length + 1, device=device) * 37 % vocabulary for length in (11, 7)]
    was_training = model.training
    model.eval()
    try:
        if not way.packed:
            singles = [
                {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in rows
            ]
            return torch.cat([way(model, {key: x[None] for key, x in row.items()}) for row in singles])
        ids = torch.cat(rows)[None]
        labels = ids.clone()
        labels[0, [0, 11]] = IGNORED
        batch = {
            "input_ids": ids,
            "position_ids": torch.cat([torch.arange(len(row), device=device) for row in rows])[None],
            "labels": labels,
            "cu_seqlens": torch.tensor([0, 11, 18], dtype=torch.int32, device=device),
        }
        return way(model, batch)
    finally:
        model.train(was_training)


def _base(model: Any) -> Any:
    """The transformers model inside a PEFT model."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _half_precision(model: torch.nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Autocast where weights are in half precision: what is trained is in float32, and float32 is slow."""
    first = next(iter(model.parameters()))
    dtypes = {parameter.dtype for parameter in model.parameters()}
    for dtype in (torch.bfloat16, torch.float16):
        if dtype in dtypes:
            return torch.autocast(first.device.type, dtype=dtype)
    return contextlib.nullcontext()
