"""The optimizer of a Recipe: which parameters learn how fast."""

from __future__ import annotations

from typing import Any

import torch
from transformers.trainer_pt_utils import get_parameter_names

from ftkit.recipe import LoRA, Recipe

_NO_DECAY = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")
"""As in transformers' Trainer."""


def parameter_groups(model: torch.nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """The trained parameters, those of one learning rate and one weight decay together.

    Returns
    -------
    list of dict
        `params`, `weight_decay` and `lr`, as torch's optimizers take them; always in the same order.
    """
    training, method = recipe.training, recipe.method
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], list(_NO_DECAY)))
    ratio = method.loraplus_ratio if isinstance(method, LoRA) else None
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = training.learning_rate
        if ratio and ("lora_B" in name or "lora_embedding_B" in name):
            rate *= ratio
        decay = training.weight_decay if name in decayed else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        # the first group's rate is the one that is shown
        for (rate, decay), parameters in sorted(
            groups.items(), key=lambda one: one[0][0] != training.learning_rate
        )
    ]
