"""Negative log-likelihood of the trained tokens: the loss of SFT and of pre-training."""

from __future__ import annotations

import torch


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
