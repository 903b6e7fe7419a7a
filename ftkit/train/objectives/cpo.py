"""Contrastive preference optimisation: DPO's loss without a reference, beside learning the chosen reply."""

from __future__ import annotations

import torch

from ftkit.recipe import CPO
from ftkit.train.objectives.dpo import hinge, ipo, sigmoid
from ftkit.train.objectives.pairs import PairObjective, Sides


class ContrastivePreference(PairObjective):
    """CPO (Xu et al. 2024, arXiv:2401.08417)."""

    def __init__(self, settings: CPO) -> None:
        self.settings = settings
        self.sft_weight = settings.sft_weight

    def losses(
        self, policy: Sides, reference: Sides | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """By the log-probabilities of both replies: sums, for IPO means over tokens."""
        beta, chosen, rejected = self.settings.beta, policy.chosen, policy.rejected
        match self.settings.loss:
            case "sigmoid":
                losses = sigmoid(beta * (chosen - rejected), self.settings.label_smoothing)
            case "hinge":
                losses = hinge(beta * (chosen - rejected))
            case "ipo":
                chosen, rejected = chosen / policy.chosen_length, rejected / policy.rejected_length
                losses = ipo(chosen - rejected, beta)
        return losses, beta * chosen, beta * rejected
