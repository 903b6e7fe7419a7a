"""AdaLoRA while it trains: ranks taken away step by step, and matrices kept orthogonal (arXiv:2303.10512).

PEFT holds the importance of every rank; what is here tells it how many steps there are, calls it after each,
and gives checkpoints what it has gathered, so that a resumed run takes the same ranks away.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from ftkit.recipe import AdaLoRA

_GATHERED = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def penalty(model: Any) -> torch.Tensor | None:
    """How far AdaLoRA's matrices are from orthogonal, weighted; None for another method.

    The mean over all matrices of ||P Pᵀ - I||, equation 4 of the paper, by the norm that PEFT takes.
    """
    settings = getattr(model, "peft_config", {}).get("default")
    if settings is None or settings.peft_type != "ADALORA" or settings.orth_reg_weight < 1e-20:
        return None
    norms = []
    for name, matrix in model.named_parameters():
        if matrix.requires_grad and ("lora_A" in name or "lora_B" in name):
            product = matrix @ matrix.T if "lora_A" in name else matrix.T @ matrix
            norms.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device)))
    return settings.orth_reg_weight * torch.stack(norms).mean()


class RankBudget(TrainerCallback):
    """Tells PEFT's rank allocator of every step."""

    def __init__(self, model: Any, method: AdaLoRA) -> None:
        self.tuner = model.base_model
        self.settings = model.peft_config["default"]
        self.method = method

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        steps = max(state.max_steps, 1)
        self.settings.total_step = steps
        self.settings.tinit = round(self.method.warmup * steps)
        self.settings.tfinal = round(self.method.settled * steps)
        self.tuner.rankallocator.peft_config = self.settings

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.tuner.update_and_allocate(state.global_step)

    def state_dict(self) -> dict[str, Any]:
        """What PEFT has gathered of every rank's importance, and which ranks are gone."""
        allocator = self.tuner.rankallocator
        gathered = {kind: dict(getattr(allocator, kind)) for kind in _GATHERED}
        return {"gathered": gathered, "pattern": self.settings.rank_pattern}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        places = {name: parameter.device for name, parameter in self.tuner.model.named_parameters()}
        for kind, values in state["gathered"].items():
            moved = {name: value.to(places[name]) for name, value in values.items()}
            setattr(self.tuner.rankallocator, kind, moved)
        self.settings.rank_pattern = state["pattern"]
