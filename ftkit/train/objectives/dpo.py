"""Direct preference optimisation: prefer the chosen reply, measured against a reference model."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.nn.functional import logsigmoid

from ftkit.recipe import DPO
from ftkit.train.objectives.pairs import PairObjective, Sides


def sigmoid(margin: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """(pairs,) losses of DPO (Rafailov et al. 2023, arXiv:2305.18290, eq. 7).

    Parameters
    ----------
    margin
        (pairs,) beta times how much more the chosen than the rejected reply has gained on the reference.
    label_smoothing
        Share of the pairs taken to be the wrong way round: conservative DPO, in the same paper's code.
    """
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def hinge(margin: torch.Tensor) -> torch.Tensor:
    """(pairs,) losses of SLiC as a loss on DPO's margin (Zhao et al. 2023, arXiv:2305.10425)."""
    return torch.relu(1 - margin)


def ipo(gain_per_token: torch.Tensor, beta: float) -> torch.Tensor:
    """(pairs,) losses of identity preference optimisation (Azar et al. 2023, arXiv:2310.12036, eq. 17).

    Parameters
    ----------
    gain_per_token
        (pairs,) the chosen reply's gain on the reference less the rejected one's, each a mean over tokens.
    beta
        The paper's tau.
    """
    return (gain_per_token - 1 / (2 * beta)) ** 2


def robust(margin: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """(pairs,) losses that are right on average though a share of the labels is wrong.

    Ray Chowdhury et al. 2024, arXiv:2403.00409.
    """
    kept = (1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    return -kept / (1 - 2 * label_smoothing)


class DirectPreference(PairObjective):
    """DPO in its several forms."""

    needs_reference: ClassVar[bool] = True

    def __init__(self, settings: DPO) -> None:
        self.settings = settings
        self.sft_weight = settings.sft_weight
        self.tail_weight = 1.0 if settings.ld_alpha is None else settings.ld_alpha

    def losses(
        self, policy: Sides, reference: Sides | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """By the gains of both replies on the reference."""
        assert reference is not None
        chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
        beta, doubt = self.settings.beta, self.settings.label_smoothing
        margin = beta * (chosen - rejected)
        match self.settings.loss:
            case "sigmoid":
                losses = sigmoid(margin, doubt)
            case "hinge":
                losses = hinge(margin)
            case "ipo":
                losses = ipo(chosen / policy.chosen_length - rejected / policy.rejected_length, beta)
            case "robust":
                losses = robust(margin, doubt)
        return losses, beta * chosen, beta * rejected
