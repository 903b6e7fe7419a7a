"""Hidden states, output head and targets to log-probabilities of the targets, a slice of rows at a time.

A row of logits is as long as the vocabulary: for 4,000 trained tokens and 49,152 words one fp32 copy is
0.8 GB, and a plain cross entropy keeps several. Here only a slice lives at any moment. A target's
log-probability depends on its own hidden state alone, so the gradient is made in the forward pass, up to
the factor that the objective sends back for each token. Accuracy and entropy fall out of the same pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ftkit.fast import compiled

SLICE_BYTES = 48 * 2**20
"""Size of one slice of fp32 logits."""
LEAST_ROWS = 64
"""Rows of a slice, however long the vocabulary: products of fewer read the head from memory too often."""
KEPT = 0.5
"""Share of a trained head's memory up to which all slices are kept for its gradient, not made again."""


@dataclass(frozen=True)
class Logits:
    """What a model does to its logits: `softcap * tanh(scale * logits / softcap)` where softcap is set."""

    scale: float = 1.0
    softcap: float = 0.0


PLAIN = Logits()


@dataclass(frozen=True)
class Extra:
    """What an objective needs of each trained token's distribution beside the token's log-probability.

    Attributes
    ----------
    smoothing
        The share s of a target that is spread over the vocabulary: `Scores.smoothed`.
    top
        The entropy among so many likeliest tokens: `Scores.top_entropy`.
    """

    smoothing: float = 0.0
    top: int = 0


NOTHING = Extra()


class Scores(NamedTuple):
    """Of each trained token: its log-probability; the distribution's entropy in nats; whether it comes first.

    These two are None where they would take a pass of their own. By `Extra`, where asked for: `smoothed`,
    (1 - s) log p(token) + s mean over the vocabulary of log p, through which gradients then go rather than
    through `logprobs`; and `top_entropy`, in nats, of the likeliest tokens' probabilities among themselves.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor | None = None
    correct: torch.Tensor | None = None
    smoothed: torch.Tensor | None = None
    top_entropy: torch.Tensor | None = None


def token_scores(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    logits: Logits = PLAIN,
    extra: Extra = NOTHING,
) -> Scores:
    """Log-probability of each target under `softmax(logits(hidden @ head.T + bias))`, and more.

    Parameters
    ----------
    hidden
        (n, hidden_size), the decoder's last hidden states at the positions that predict.
    head
        (vocab_size, hidden_size), the output embedding; it gets a gradient only if it is trained.
    targets
        (n,) token ids.
    bias
        (vocab_size,), or None.

    Returns
    -------
    Scores
        (n,) each; `logprobs` in float32 (float64 for float64), differentiable in `hidden`, `head` and `bias`.
    """
    beside: dict[str, torch.Tensor] = {}
    value = _TokenScores.apply(hidden, head, targets, bias, logits, extra, beside)
    return Scores(**({"smoothed": value} if extra.smoothing else {"logprobs": value}), **beside)


def plain_scores(made: torch.Tensor, targets: torch.Tensor, extra: Extra = NOTHING) -> Scores:
    """The same of all logits at once, (n, vocab_size), by plain autograd."""
    logprobs = made.log_softmax(-1)
    value = logprobs.gather(1, targets[:, None])[:, 0]
    top = top_entropy(made.detach(), extra.top) if extra.top else None
    if not extra.smoothing:
        return Scores(value, top_entropy=top)
    smoothed = (1 - extra.smoothing) * value + extra.smoothing * logprobs.mean(-1)
    return Scores(value.detach(), smoothed=smoothed, top_entropy=top)


def top_entropy(made: torch.Tensor, count: int, logits: Logits = PLAIN) -> torch.Tensor:
    """(n,) entropy in nats among the `count` likeliest tokens of each row of the head's outputs."""
    highest = made.topk(min(count, made.shape[-1]), dim=-1).values.float() * logits.scale
    if logits.softcap:
        highest = logits.softcap * torch.tanh(highest / logits.softcap)
    logprobs = highest.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def draw(
    made: torch.Tensor,
    head: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    logits: Logits = PLAIN,
) -> torch.Tensor:
    """(n,) tokens, each drawn by its probability, of (n, hidden_size) states and a head; or of all logits."""
    if head is None:
        return torch.multinomial(made.softmax(-1), 1)[:, 0]
    found = []
    for part in _slices(len(made), head):
        out = (made[part].to(head.dtype) @ head.T).float()
        out = (out if bias is None else out + bias) * logits.scale
        if logits.softcap:
            out = logits.softcap * torch.tanh(out / logits.softcap)
        found.append(torch.multinomial(out.softmax(-1), 1)[:, 0])
    return torch.cat(found)


def reference_logprobs(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    logits: Logits = PLAIN,
) -> torch.Tensor:
    """The same by plain autograd over all logits at once: what `token_scores` is tested against."""
    made = hidden.to(head.dtype) @ head.T
    made = made.to(torch.promote_types(head.dtype, torch.float32)) + (0 if bias is None else bias)
    made = made * logits.scale
    if logits.softcap:
        made = logits.softcap * torch.tanh(made / logits.softcap)
    return made.log_softmax(-1).gather(1, targets[:, None])[:, 0]


class _TokenScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        targets: torch.Tensor,
        bias: torch.Tensor | None,
        logits: Logits,
        extra: Extra,
        beside: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        trains_head = ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
        slices = _slices(len(targets), head)
        # the backward would make a single slice again, and need its room; several of few rows are kept too
        keeps = trains_head and (len(slices) == 1 or len(targets) <= KEPT * head.shape[1])
        with_slope = slope is not None or keeps
        parts, residuals = [], []
        room = None if keeps else _room(len(targets), head)
        for part in slices:
            given = (hidden[part], head, targets[part], bias, logits, extra)
            scores, residual = _score(*given, with_slope, room)
            parts.append(scores)
            if slope is not None:
                slope[part] = (residual @ head).to(hidden.dtype)
            if keeps:
                residuals.append(residual)
            del residual  # or two slices would live while the next one is made
        ctx.save_for_backward(slope, *((hidden, head, targets, bias, *residuals) if trains_head else ()))
        ctx.logits, ctx.extra = logits, extra
        made = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        value = made.pop("smoothed" if extra.smoothing else "logprobs")
        beside |= made
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad = grads[0]
        slope, *kept = ctx.saved_tensors
        to_hidden = None if slope is None else slope * grad[:, None].to(slope.dtype)
        if not kept:
            return to_hidden, None, None, None, None, None, None
        hidden, head, targets, bias, *residuals = kept
        weighted = (hidden * grad[:, None]).to(head.dtype)
        to_head: torch.Tensor | None = None
        to_bias = None if bias is None else torch.zeros_like(bias)
        slices = _slices(len(targets), head)
        room = None if residuals else _room(len(targets), head)
        for place, part in enumerate(slices):
            if residuals:
                residual = residuals[place]
            else:
                given = (hidden[part], head, targets[part], bias, ctx.logits, ctx.extra)
                _, residual = _score(*given, True, room)
            to_head = _add_product(to_head, residual.T, weighted[part])
            if to_bias is not None:
                to_bias += (grad[part].to(residual.dtype) @ residual).to(to_bias.dtype)
            del residual
        assert to_head is not None
        return to_hidden, to_head.to(head.dtype), None, to_bias, None, None, None


def _score(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None,
    logits: Logits,
    extra: Extra,
    with_slope: bool,
    room: torch.Tensor | None,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The scores of a slice that are had in one pass; the slope of what is learned in the head's outputs.

    The head's outputs are made in `room` (rows, vocab_size) where that is given.
    """
    made = torch.mm(hidden.to(head.dtype), head.T, out=None if room is None else room[: len(hidden)])
    scores: dict[str, torch.Tensor] = {}
    if extra.top:
        scores["top_entropy"] = top_entropy(made if bias is None else made + bias, extra.top, logits)
    if bias is None and not extra.smoothing and compiled.available(made):
        n = len(targets)
        out, entropy = torch.empty(n), torch.empty(n)
        best = torch.empty(n, dtype=torch.int64)
        compiled.call(
            "logprobs", made, targets.contiguous(), float(logits.scale), float(logits.softcap),
            out, entropy, best, int(with_slope), n, made.shape[-1],
        )  # fmt: skip
        return scores | {"logprobs": out, "entropy": entropy, "correct": best == targets}, made
    made = made.to(torch.promote_types(head.dtype, torch.float32))
    made = made if bias is None else made.add_(bias)
    if logits.scale != 1:
        made *= logits.scale
    inner = None
    if logits.softcap:
        made = logits.softcap * (inner := torch.tanh(made / logits.softcap))
    index = targets[:, None]
    total = made.logsumexp(-1, keepdim=True)
    scores["logprobs"] = out = (made.gather(1, index) - total)[:, 0]
    share = extra.smoothing
    if share:
        scores["smoothed"] = (1 - share) * out + share * (made.mean(-1) - total[:, 0])
    if with_slope:
        made.sub_(total).exp_().neg_()
        made.scatter_add_(1, index, torch.full_like(index, 1 - share, dtype=made.dtype))
        if share:
            made += share / made.shape[-1]
        if inner is not None:
            made *= 1 - inner**2
        if logits.scale != 1:
            made *= logits.scale
    return scores, made.to(head.dtype)


def _add_product(total: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """total + a @ b, summed in float32 at least; where that is their type, with no second total beside."""
    if total is None:
        return a @ b
    wide = torch.promote_types(a.dtype, torch.float32)
    return total.addmm_(a, b) if a.dtype == wide else total.to(wide).add_(a @ b)


def _rows(head: torch.Tensor) -> int:
    """Of a slice."""
    return max(LEAST_ROWS, SLICE_BYTES // (4 * head.shape[0]))


def _slices(count: int, head: torch.Tensor) -> list[slice]:
    """Rows that are computed together; one slice of none where there are none."""
    rows = _rows(head)
    return [slice(start, start + rows) for start in range(0, max(count, 1), rows)]


def _room(count: int, head: torch.Tensor) -> torch.Tensor:
    """Memory for the head's outputs of one slice, for all of them in turn."""
    return head.new_empty(min(count, _rows(head)), len(head))
