"""Linear layers in few bits by HQQ (Half-Quadratic Quantization, mobiusml.github.io/hqq_blog), on any device.

The package quantizes a layer from its weights alone, without example texts. transformers' own way of calling
it is for GPUs; here each layer of a loaded model is exchanged in its place, one after the other.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

from ftkit.errors import ModelError

_GROUPS = (64, 32, 16, 8)
"""Weights that share a scale; the largest that divides a layer's inputs is taken."""


def quantize(model: Any, bits: int, dtype: Any, device: str) -> None:
    """Exchange the linear layers of `model` for such of `bits` bits; its output head stays whole.

    Raises
    ------
    ModelError
        Where it has none that can be.
    """
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
    from torch import nn

    output = model.get_output_embeddings()
    chosen = [
        (path, layer)
        for path, layer in model.named_modules()
        if type(layer) is nn.Linear and layer is not output and path != "score" and _group(layer)
    ]
    if not chosen:
        raise ModelError(
            "The model has no linear layers that HQQ can quantize.", "Choose another model.quantization."
        )
    for path, layer in chosen:
        settings = BaseQuantizeConfig(nbits=bits, group_size=_group(layer), axis=1)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it deprecates
            made = HQQLinear(layer, settings, compute_dtype=dtype, device=device)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, made)


def is_one(layer: Any) -> bool:
    """Whether a layer is one of HQQ's: no subclass of torch's linear layers."""
    return type(layer).__name__ == "HQQLinear"


def _group(layer: Any) -> int:
    return next((size for size in _GROUPS if layer.in_features % size == 0), 0)
