"""BAdam: AdamW on one decoder layer at a time (arXiv:2404.02827).

Only the layer whose turn it is has gradients that are kept and moments; the others' gradients are let go as
soon as the backward pass has made them. The authors' package keeps neither the layer nor the order in a
checkpoint and switches `requires_grad` of the weights, by which the rest of a run knows what is trained.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch

Layers = Sequence[Sequence[torch.nn.Parameter]]


class LayerByLayer(torch.optim.AdamW):
    """AdamW that goes from layer to layer.

    Parameters
    ----------
    groups
        Parameter groups of all layers, as torch's optimizers take them.
    layers
        The trained parameters of each decoder layer.
    interval
        Steps on a layer before the next one has its turn.
    mode
        "ascending", "descending", "random" (all layers before any comes again) or "fixed".
    first
        Number of the layer to begin with; None: as the mode says.
    """

    def __init__(
        self,
        groups: Any,
        layers: Layers,
        *,
        interval: int,
        mode: str,
        first: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(groups, **settings)
        self.layers, self.interval, self.mode = layers, interval, mode
        self.taken = 0
        self.left: list[int] = []
        start = {"descending": len(layers) - 1, "random": None}.get(mode, 0) if first is None else first
        self.active = self._drawn() if start is None else start
        own = weakref.ref(self)  # hooks outlive an optimizer that a rolled back run makes anew
        for number, layer in enumerate(layers):
            for parameter in layer:
                parameter.register_post_accumulate_grad_hook(_let_go_unless_active(own, number))

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """A step of the active layer; after `interval` of them the next layer has its turn."""
        done = super().step(closure)
        self.taken += 1
        if self.taken % self.interval == 0:
            before, self.active = self.active, self._next()
            if self.active != before:
                for parameter in self.layers[before]:
                    self.state.pop(parameter, None)
        return done

    def _next(self) -> int:
        if self.mode == "random":
            return self._drawn()
        by = {"ascending": 1, "descending": -1, "fixed": 0}[self.mode]
        return (self.active + by) % len(self.layers)

    def _drawn(self) -> int:
        if not self.left:
            self.left = torch.randperm(len(self.layers)).tolist()
        return self.left.pop()

    def state_dict(self) -> dict[str, Any]:
        """AdamW's own, and whose turn it is."""
        return {
            **super().state_dict(),
            "turn": {"taken": self.taken, "active": self.active, "left": self.left},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        turn = state_dict["turn"]
        self.taken, self.active, self.left = turn["taken"], turn["active"], list(turn["left"])
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "turn"})


def _let_go_unless_active(own: weakref.ref[LayerByLayer], number: int) -> Any:
    def let_go(parameter: torch.Tensor) -> None:
        optimizer = own()
        if optimizer is not None and optimizer.active != number:
            parameter.grad = None

    return let_go
