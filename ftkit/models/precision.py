"""Which precisions and quantizations this machine can train in, and why not in others. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ftkit.errors import ModelError
from ftkit.models.device import Device
from ftkit.recipe import Model

BYTES: Mapping[str, float] = {"8bit": 1.06, "int8": 1.06, "4bit": 0.56}
"""Bytes of a weight of a linear layer, its scales included."""
_PACKAGES = {"8bit": "bitsandbytes", "4bit": "bitsandbytes", "int8": "torchao"}


def available(device: Device) -> dict[str, str]:
    """Every `compute.dtype` and `model.quantization`, with why it cannot be had; empty where it can."""
    found = {"float32": "", "bfloat16": ""}
    for name, package in _PACKAGES.items():
        missing = find_spec(package) is None
        found[name] = f"needs the package {package}: pip install 'ftkit[quantization]'" if missing else ""
    return found


def check(config: Model, device: Device) -> None:
    """Refuse what this machine cannot do, before anything is fetched or loaded.

    Raises
    ------
    ModelError
        With the reason.
    """
    if config.quantization is None:
        return
    if reason := available(device)[config.quantization]:
        raise ModelError(
            f"model.quantization {config.quantization!r} {reason}.",
            "Install it, or leave model.quantization out.",
        )


def loading(config: Model, dtype: Any, device: Device) -> dict[str, Any]:
    """Keywords of transformers' `from_pretrained` for a quantized model; none for a plain one."""
    if config.quantization is None:
        return {}
    import transformers

    settings: Any
    if config.quantization == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        settings = transformers.TorchAoConfig(Int8WeightOnlyConfig())
    elif config.quantization == "8bit":
        settings = transformers.BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"quantization_config": settings, "device_map": {"": device.kind}}


def settle(model: Any) -> None:
    """Keep 4-bit weights as they are: bitsandbytes would lay them out anew at the first pass without a
    gradient, on processors with AVX512-BF16, in a form that has no backward pass."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
