"""Whether a loss is still one: a number, with a finite gradient, and not running away."""

from __future__ import annotations

import math
from collections import deque

import torch

WINDOW = 5
"""Steps over which losses are averaged before they are compared."""
LEFT_OUT = 30
"""So many steps in a row with a gradient that is too large whatever its scale: 2^-30 of the first one."""
LEAST_RISE = 2.0
"""A mean loss this far (nats), and three times, above the lowest one has run away: noise does not do that."""


class LossWatch:
    """Looks at each step's loss.

    Attributes
    ----------
    last_good
        The newest step at which the averaged loss was the lowest so far; 0 before any.
    """

    def __init__(self) -> None:
        self.last_good = 0
        self._skipped = 0
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._lowest = math.inf

    def look(self, step: int, loss: float, grad_norm: float | None, *, scaled: bool = False) -> str:
        """What is wrong at `step`, in a sentence; empty where nothing is.

        Parameters
        ----------
        scaled
            Whether the gradient is that of a scaled loss: a step whose scale was too large is left out, and
            the next has a smaller one.
        """
        if not math.isfinite(loss):
            return f"The loss became {loss} at step {step}."
        overflow = grad_norm is not None and not math.isfinite(grad_norm)
        self._skipped = self._skipped + 1 if overflow else 0
        if overflow and not (scaled and self._skipped < LEFT_OUT):
            return f"The gradient's norm became {grad_norm} at step {step} (loss {loss:.4g})."
        self._recent.append(loss)
        mean = sum(self._recent) / len(self._recent)
        if mean < self._lowest:
            self._lowest, self.last_good = mean, step
        if len(self._recent) == WINDOW and mean > self._lowest + max(LEAST_RISE, 2 * abs(self._lowest)):
            return (
                f"The loss runs away: {mean:.3g} over the last {WINDOW} steps to step {step}, "
                f"{self._lowest:.3g} at its lowest."
            )
        return ""


def all_finite(model: torch.nn.Module) -> bool:
    """Whether every trained weight is a finite number; of split weights, this rank's share."""
    trained = [weight.detach() for weight in model.parameters() if weight.requires_grad]
    own = [weight.to_local() if hasattr(weight, "to_local") else weight for weight in trained]
    return all(bool(torch.isfinite(weight).all()) for weight in own)
