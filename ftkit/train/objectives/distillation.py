"""Knowledge distillation: learn the distribution that a teacher has over each token, not the token alone."""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from ftkit.recipe import Distillation
from ftkit.train.objectives.base import Batch, Objective, Outcome, Passes, trained_tokens


def jensen_shannon(student: torch.Tensor, teacher: torch.Tensor, beta: float) -> torch.Tensor:
    """(n,) generalised Jensen-Shannon divergences (Agarwal et al. 2023, arXiv:2306.13649, eq. 1), in nats.

    Parameters
    ----------
    student, teacher
        (n, vocab_size) log-probabilities.
    beta
        Weight of the teacher in the mixture that both are compared with. At its ends it is a plain
        divergence: at 0 the teacher's from the student (Hinton et al. 2015, arXiv:1503.02531), at 1 the
        student's from the teacher (Gu et al. 2023, arXiv:2306.08543).
    """
    if beta == 0:
        return _divergence(teacher, student)
    if beta == 1:
        return _divergence(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * _divergence(teacher, mixture) + (1 - beta) * _divergence(student, mixture)


def _divergence(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(n,) Kullback-Leibler divergences of `one` from `other`, both log-probabilities."""
    return (one.exp() * (one - other)).sum(-1)


class Distilled(Objective):
    """A student beside its teacher, and by weight beside the rows' own tokens.

    The temperature flattens both distributions and, as in GKD, scales nothing else.
    """

    needs_teacher: ClassVar[bool] = True

    def __init__(self, settings: Distillation) -> None:
        self.settings = settings

    def counts(self, batch: Batch) -> tuple[int, ...]:
        """Trained tokens."""
        return (trained_tokens(batch),)

    def outcome(self, passes: Passes, batch: Batch) -> Outcome:
        """The sum over trained tokens."""
        total, told = passes.beside_teacher(batch, self.losses)
        return Outcome((total,), {name: (value.sum(), len(value)) for name, value in told.items()})

    def losses(
        self, student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """(n,) losses by (n, vocab_size) logits of both, and what is told of the student."""
        settings = self.settings
        own = student.log_softmax(-1)
        flat = own if settings.temperature == 1 else (student / settings.temperature).log_softmax(-1)
        known = (teacher / settings.temperature).log_softmax(-1)
        divergence = jensen_shannon(flat, known, settings.beta)
        label_loss = -own.gather(1, targets[:, None])[:, 0]
        said = own.detach()
        told = {
            "divergence": divergence,
            "label_loss": label_loss,
            "accuracy": said.argmax(-1) == targets,
            "entropy": -(said.exp() * said).sum(-1),
        }
        return divergence + settings.label_weight * label_loss, told
