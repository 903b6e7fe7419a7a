"""LoftQ: LoRA that begins by making good what few bits have lost of each weight (arXiv:2310.08659).

    y = Q x + s B A x         with s B A beginning as the best of its rank for W - Q

This is the paper's method with one alternation: Q stays what the quantization makes of W, so that the base
model beneath the adapter is the quantized one as anybody loads it, and the adapter goes on that. (Further
alternations would quantize W - s B A instead, weights that nobody else has.) PEFT's own function computes on
a GPU only, for 4-bit weights only, and leaves the scale s out.
"""

from __future__ import annotations

from typing import Any

import torch

from ftkit.models.directions import leading


def start_from_losses(model: Any, whole: Any) -> None:
    """Give the LoRA layers of a quantized `model` their first values.

    Parameters
    ----------
    whole
        The model as it was before quantization; its weights are read one after the other.

    Raises
    ------
    ValueError
        Where a layer of one is not in the other.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils.integrations import dequantize_module_weight

    for name, layer in model.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer) or "default" not in layer.lora_A:
            continue
        base = layer.get_base_layer()
        kept = dequantize_module_weight(base).detach().float()
        weight = whole.get_submodule(name).weight.detach().to(kept.device, torch.float32)
        if kept.shape != weight.shape:
            raise ValueError(f"the weights of {name} are laid out otherwise once they are quantized")
        rank, scale = layer.r["default"], layer.scaling["default"]
        if rank > min(weight.shape):
            raise ValueError(f"method.rank {rank} is more than {name} has: {min(weight.shape)}")
        b, a = leading((weight - kept) / scale, rank)
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
