"""A new LoRA above one that was trained before and stays as it is, both in one adapter.

    y = W x + s0 B0 A0 x + s B A x = W x + s [B, s0/s B0] [A; A0] x

The rows of A0 and the columns of B0 are held, so that only the new part learns; the base model beneath is the
original, to the bit, and what is saved is a plain LoRA that goes on the original anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ftkit.models.directions import hold

Below = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""A0 and s0 B0 by the path of their layer."""


def read(folder: Path) -> Below:
    """The matrices of a saved LoRA.

    Raises
    ------
    ValueError
        Where it is more than a plain LoRA.
    """
    from peft.utils import load_peft_weights
    from peft.utils.other import get_pattern_key

    from ftkit.models.adapters import adapter_settings

    settings = adapter_settings(folder)
    kind = str(getattr(settings.peft_type, "value", settings.peft_type)).lower()
    more = [
        name
        for name in ("use_dora", "modules_to_save", "trainable_token_indices")
        if getattr(settings, name, None)
    ]
    if kind != "lora" or more or settings.bias != "none":
        what = kind if kind != "lora" else f"LoRA with {', '.join(more) or 'biases'}"
        raise ValueError(f"method.stack_on is {what}, and only a plain LoRA can lie below another one")
    found = load_peft_weights(str(folder), device="cpu")
    below = {}
    for name, first in found.items():
        path, end = name.removeprefix("base_model.model."), ".lora_A.weight"
        if not path.endswith(end):
            continue
        path, rank = path.removesuffix(end), first.shape[0]
        alpha = settings.alpha_pattern.get(
            get_pattern_key(settings.alpha_pattern.keys(), path), settings.lora_alpha
        )
        scale = alpha / (rank**0.5 if settings.use_rslora else rank)
        second = found[name.replace(".lora_A.", ".lora_B.")]
        below[path] = first.float(), scale * second.float()
    return below


def settings(below: Below, new: Iterable[str], rank: int, scale: float) -> dict[str, Any]:
    """What PEFT is asked for: on the layers `new` there is a new part of `rank`, on those `below` the old."""
    new = set(new)
    ranks = {path: a.shape[0] + (rank if path in new else 0) for path, (a, _) in below.items()}
    return {
        "target_modules": sorted(new | below.keys()),
        "rank_pattern": ranks,
        "alpha_pattern": {path: scale * each for path, each in ranks.items()},
    }


def fill(model: Any, below: Below) -> None:
    """Put the old part into the adapter that was made with `settings`, and hold it.

    Raises
    ------
    ValueError
        Where it was made for a model of other sizes.
    """
    base = model.get_base_model()
    for path, (a, b) in below.items():
        layer = base.get_submodule(path)
        first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        own = first.shape[0] - a.shape[0]
        if first.shape[1:] != a.shape[1:] or second.shape[:1] != b.shape[:1]:
            raise ValueError(f"method.stack_on was made for a model whose {path} has another size")
        with torch.no_grad():
            first[own:] = a
            second[:, own:] = b / layer.scaling["default"]
        hold(first, second, own)
