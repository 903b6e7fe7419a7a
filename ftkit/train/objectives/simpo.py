"""Simple preference optimisation: the chosen reply's reward, its mean log-probability, leads by a margin."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from ftkit.recipe import SimPO
from ftkit.train.objectives.pairs import PairObjective, Sides


def simple(chosen_reward: torch.Tensor, rejected_reward: torch.Tensor, gamma: float) -> torch.Tensor:
    """(pairs,) losses of rewards that should be `gamma` apart (Meng et al. 2024, arXiv:2405.14734, eq. 6)."""
    return -logsigmoid(chosen_reward - rejected_reward - gamma)


class SimplePreference(PairObjective):
    """SimPO."""

    def __init__(self, settings: SimPO) -> None:
        self.beta, self.gamma, self.sft_weight = settings.beta, settings.gamma, settings.sft_weight

    def losses(
        self, policy: Sides, reference: Sides | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """By the mean log-probabilities of both replies."""
        chosen = self.beta * policy.chosen / policy.chosen_length
        rejected = self.beta * policy.rejected / policy.rejected_length
        return simple(chosen, rejected, self.gamma), chosen, rejected
