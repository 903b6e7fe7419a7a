"""Odds-ratio preference optimisation: learn the chosen reply, with better odds than the rejected one."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid

from ftkit.recipe import ORPO
from ftkit.train.objectives.pairs import PairObjective, Sides


def log_odds(logprob: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of log p < 0, exact on both ends."""
    near_one = logprob > -math.log(2)
    # each branch is kept away from where it has no finite gradient
    of_small = torch.log1p(-torch.exp(torch.where(near_one, -1.0, logprob)))
    of_large = torch.log(-torch.expm1(torch.where(near_one, logprob.clamp(max=-1e-7), -1.0)))
    return logprob - torch.where(near_one, of_large, of_small)


def odds_ratio(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """(pairs,) losses of the replies' mean log-probabilities (Hong et al. 2024, arXiv:2403.07691, eq. 7)."""
    return -logsigmoid(log_odds(chosen) - log_odds(rejected))


class OddsRatio(PairObjective):
    """ORPO; its supervised part is over the tokens that are trained on, those of the chosen reply."""

    sft_weight = 1.0

    def __init__(self, settings: ORPO) -> None:
        self.beta = settings.beta

    def losses(
        self, policy: Sides, reference: Sides | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """By the mean log-probabilities of both replies."""
        chosen, rejected = policy.chosen / policy.chosen_length, policy.rejected / policy.rejected_length
        return self.beta * odds_ratio(chosen, rejected), self.beta * chosen, self.beta * rejected
