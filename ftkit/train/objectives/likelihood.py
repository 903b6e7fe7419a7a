"""Negative log-likelihood of the trained tokens, plain and weighted: the losses of SFT and pre-training."""

from __future__ import annotations

import math

import torch

from ftkit.fast.loss import Extra, Scores
from ftkit.recipe import SFT, Pretraining
from ftkit.train.objectives.base import Batch, Objective, Outcome, Passes, trained_tokens

LIKELIEST = 20
"""EAFT's K: uncertainty is the entropy among so many likeliest tokens, over its greatest value, log K."""


def negative_log_likelihood(logprobs: torch.Tensor, trained_tokens: torch.Tensor | int) -> torch.Tensor:
    """Sum over this batch of -log p, divided by the trained tokens of the whole optimizer step.

    Parameters
    ----------
    logprobs
        (n,) log-probabilities of the trained tokens of one forward pass.
    trained_tokens
        Trained tokens in all forward passes of the step, so that accumulation gives the mean over tokens.

    Returns
    -------
    torch.Tensor
        Scalar, in nats a token.
    """
    return -logprobs.sum() / trained_tokens


def dynamic(logprobs: torch.Tensor) -> torch.Tensor:
    """(n,) -p log p with p taken as a constant: dynamic fine-tuning (Wu et al. 2025, arXiv:2508.05629)."""
    return -logprobs.detach().exp() * logprobs


def entropy_adaptive(logprobs: torch.Tensor, top_entropy: torch.Tensor) -> torch.Tensor:
    """(n,) -H log p, with H from 0 (the model is sure) to 1 (Diao et al. 2026, arXiv:2601.02151).

    Parameters
    ----------
    top_entropy
        (n,) entropy in nats among the `LIKELIEST` tokens; taken as a constant.
    """
    return -top_entropy.detach() / math.log(LIKELIEST) * logprobs


class Likelihood(Objective):
    """SFT and pre-training."""

    def __init__(self, settings: SFT | Pretraining) -> None:
        sft = settings if isinstance(settings, SFT) else SFT()
        self.loss = sft.loss
        self.extra = Extra(smoothing=sft.label_smoothing, top=LIKELIEST if sft.loss == "eaft" else 0)

    def counts(self, batch: Batch) -> tuple[int, ...]:
        """Trained tokens."""
        return (trained_tokens(batch),)

    def outcome(self, passes: Passes, batch: Batch) -> Outcome:
        """The sum over trained tokens."""
        scores = passes.policy(batch, self.extra)
        return Outcome((self._losses(scores).sum(),), token_figures(scores))

    def _losses(self, scores: Scores) -> torch.Tensor:
        if self.loss == "dft":
            return dynamic(scores.logprobs)
        if self.loss == "eaft":
            assert scores.top_entropy is not None
            return entropy_adaptive(scores.logprobs, scores.top_entropy)
        return -(scores.logprobs if scores.smoothed is None else scores.smoothed)


def token_figures(scores: Scores) -> dict[str, tuple[torch.Tensor, int]]:
    """`accuracy` (trained tokens found likeliest) and `entropy` (nats), where they are at hand."""
    found = {"accuracy": scores.correct, "entropy": scores.entropy}
    return {name: (value.sum(), len(value)) for name, value in found.items() if value is not None}
