"""Hidden states, output head and targets to log-probabilities of the targets, a slice of rows at a time.

A row of logits is as long as the vocabulary: for 4,000 trained tokens and 49,152 words one fp32 copy is
0.8 GB, and a plain cross entropy keeps several. Here only a slice lives at any moment. A target's
log-probability depends on its own hidden state alone, so the gradient is made in the forward pass, up to
the factor that the objective sends back for each token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

SLICE_BYTES = 64 * 2**20
"""Size of one slice of fp32 logits."""


def token_logprobs(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, *, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Log-probability of each target under `softmax(hidden @ head.T + bias)`.

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
    torch.Tensor
        (n,) float32, differentiable in `hidden`, `head` and `bias`.
    """
    return _TokenLogProbs.apply(hidden, head, targets, bias)


def reference_logprobs(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, *, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The same by plain autograd over all logits at once: what `token_logprobs` is tested against."""
    logits = _logits(hidden, head, bias)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def _logits(hidden: torch.Tensor, head: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    logits = (hidden.to(head.dtype) @ head.T).to(torch.promote_types(head.dtype, torch.float32))
    return logits if bias is None else logits + bias


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        rows = _rows_a_slice(head)
        out = torch.empty(
            len(targets), dtype=torch.promote_types(head.dtype, torch.float32), device=hidden.device
        )
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), rows):
            part = slice(start, start + rows)
            logits = _logits(hidden[part], head, bias)
            index = targets[part, None]
            total = logits.logsumexp(-1, keepdim=True)
            out[part] = (logits.gather(1, index) - total)[:, 0]
            if slope is not None:
                slope[part] = (_residual(logits, total, index).to(head.dtype) @ head).to(hidden.dtype)
        trains_head = ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
        ctx.save_for_backward(slope, *((hidden, head, targets, bias) if trains_head else ()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        slope, *kept = ctx.saved_tensors
        to_hidden = None if slope is None else slope * grad[:, None].to(slope.dtype)
        if not kept:
            return to_hidden, None, None, None
        hidden, head, targets, bias = kept
        to_head = torch.zeros_like(head, dtype=grad.dtype)
        to_bias = None if bias is None else torch.zeros_like(bias)
        for start in range(0, len(targets), _rows_a_slice(head)):
            part = slice(start, start + _rows_a_slice(head))
            logits = _logits(hidden[part], head, bias)
            residual = _residual(logits, logits.logsumexp(-1, keepdim=True), targets[part, None])
            residual *= grad[part, None]
            to_head += residual.to(head.dtype).T @ hidden[part].to(head.dtype)
            if to_bias is not None:
                to_bias += residual.sum(0).to(to_bias.dtype)
        return to_hidden, to_head.to(head.dtype), None, to_bias


def _residual(logits: torch.Tensor, total: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """One-hot target minus probabilities: the log-probability's slope in the logits. Overwrites `logits`."""
    logits.sub_(total).exp_().neg_()
    return logits.scatter_add_(1, index, torch.ones_like(index, dtype=logits.dtype))


def _rows_a_slice(head: torch.Tensor) -> int:
    return max(1, SLICE_BYTES // (4 * head.shape[0]))
