"""Weights that are kept beside the ones being trained: the best so far, and their moving average.

Both are callbacks whose state goes into checkpoints, so that a resumed run keeps what an uninterrupted one
would. At the end of training the kept weights take the place of the last ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from ftkit.train.protocol import Sink

Weights = dict[str, torch.Tensor]


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def _put(model: torch.nn.Module, weights: Weights) -> None:
    for name, parameter in trained(model).items():
        parameter.copy_(weights[name])


class Best(TrainerCallback):
    """Follows the held-out loss: keeps the best weights, ends a run that no longer gets better.

    Parameters
    ----------
    keep
        Whether the best weights are the result of the run.
    patience
        End after so many evaluations without a lower loss; None: never.
    """

    def __init__(self, model: torch.nn.Module, sink: Sink, keep: bool, patience: int | None) -> None:
        self.model, self.sink, self.keep, self.patience = model, sink, keep, patience
        self.loss: float | None = None
        self.step = self.waited = 0
        self.weights: Weights = {}

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        loss = (metrics or {}).get("eval_loss")
        if loss is None:
            return
        if self.loss is None or loss < self.loss:
            self.loss, self.step, self.waited = loss, state.global_step, 0
            if self.keep:
                copies = {name: p.detach().to("cpu", copy=True) for name, p in trained(self.model).items()}
                self.weights = copies
            return
        self.waited += 1
        if self.patience is not None and self.waited >= self.patience:
            control.should_training_stop = True
            control.should_save = True
            text = f"The held-out loss has not fallen for {self.waited} evaluations: training ends here."
            self.sink.emit("note", level="info", text=text)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.weights and self.step != state.global_step:
            _put(self.model, self.weights)
            text = (
                f"The weights of step {self.step} are kept: its held-out loss {self.loss:.4f} is the lowest."
            )
            self.sink.emit("note", level="info", text=text)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"loss": self.loss, "step": self.step, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.loss, self.step, self.waited = state["loss"], state["step"], state["waited"]
        self.weights = state["weights"]


class Average(TrainerCallback):
    """An exponential moving average of the trained weights, which is the result of the run.

    After step n it is `d a + (1 - d) w` with `d = min(decay, (1 + n) / (10 + n))`: in the first steps, which
    are far from where the run ends, it follows more closely.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights: Weights = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self.weights:
            self.weights = {name: p.detach().clone() for name, p in trained(self.model).items()}

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        with torch.no_grad():
            for name, parameter in trained(self.model).items():
                self.weights[name].lerp_(parameter, 1 - decay)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        _put(self.model, self.weights)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        places = trained(self.model)
        self.weights = {name: value.to(places[name].device) for name, value in state["weights"].items()}


class AveragedOptimizer(TrainerCallback):
    """For an optimizer that trains at one point and answers at another: the result is the latter."""

    def __init__(self, optimizer: Callable[[], Any]) -> None:
        self.optimizer = optimizer

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.optimizer().eval()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the optimizer keeps it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""
