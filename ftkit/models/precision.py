"""Which precisions and quantizations this machine can train in, and why not in others. Without torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.errors import ModelError
from ftkit.models.device import Device
from ftkit.recipe import Compute, Model, extras

BYTES: Mapping[str, float] = {
    "8bit": 1.06,
    "int8": 1.06,
    "4bit": 0.56,
    "fp8": 1.06,
    "hqq8": 1.13,
    "hqq4": 0.63,
    "hqq3": 0.53,
    "hqq2": 0.38,
}
"""Bytes of a weight of a linear layer, its scales included."""
_PACKAGES = {"8bit": "bitsandbytes", "4bit": "bitsandbytes", "int8": "torchao", "fp8": "torchao"}
_CHECKPOINTS: Mapping[str, tuple[str, ...]] = {
    "bitsandbytes": ("bitsandbytes",),
    "torchao": ("torchao",),
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel",),
}
"""Packages that read a checkpoint whose weights were packed before, by the name in its config.json."""


def available(device: Device) -> dict[str, str]:
    """Every `compute.dtype` and `model.quantization`, with why it cannot be had; empty where it can."""
    found = {"float32": "", "bfloat16": "", "float16": ""}
    if device.kind == "cpu":
        found["float16"] = (
            "needs a GPU: its gradients vanish unless the loss is scaled, which is done there only"
        )
    for name in BYTES:
        package, extra = ("hqq", "hqq") if name.startswith("hqq") else (_PACKAGES[name], "quantization")
        found[name] = extras.missing(package, extra)
    if not device.native_fp8:
        found["fp8"] = "needs a GPU that computes in fp8 (compute capability 8.9 or newer)"
    return found


def check(config: Model, compute: Compute, device: Device) -> None:
    """Refuse what this machine cannot do, before anything is fetched or loaded.

    Raises
    ------
    ModelError
        With the reason.
    """
    reasons = available(device)
    if reason := reasons.get(compute.dtype, ""):
        raise ModelError(
            f"compute.dtype {compute.dtype!r} {reason}.",
            "Set compute.dtype to auto, float32 or bfloat16.",
        )
    if config.quantization is not None and (reason := reasons[config.quantization]):
        raise ModelError(
            f"model.quantization {config.quantization!r} {reason}.",
            "Install it, or leave model.quantization out."
            if "pip install" in reason
            else "Choose another model.quantization, or leave it out.",
        )


@dataclass(frozen=True)
class Packed:
    """How a checkpoint's weights were packed before, as its config.json says.

    Attributes
    ----------
    method
        Such as "gptq", "awq", "bitsandbytes".
    bits
        Of a weight; None where it does not say.
    """

    method: str
    bits: int | None

    @property
    def name(self) -> str:
        """In words: `GPTQ (4 bits)`."""
        called = self.method if self.method in ("bitsandbytes", "torchao") else self.method.upper()
        return f"{called} ({self.bits} bits)" if self.bits else called

    @property
    def bytes(self) -> float | None:
        """Of a weight, its scales included; None where it is not known."""
        return self.bits / 8 + 0.06 if self.bits else None


def packed(config: Mapping[str, Any]) -> Packed | None:
    """What a config.json says of weights that were packed before; None for whole weights."""
    said = config.get("quantization_config")
    if not isinstance(said, Mapping):
        return None
    method = str(said.get("quant_method") or "")
    bits = next((said[name] for name in ("bits", "w_bit") if isinstance(said.get(name), int)), None)
    for name, count in (("load_in_4bit", 4), ("load_in_8bit", 8)):
        if said.get(name):
            method, bits = method or "bitsandbytes", count
    return Packed(method[:40], bits) if method else None


def packed_in(folder: Path) -> Packed | None:
    """The same of a model's folder."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # whoever reads the model says what is wrong with it
    return packed(config) if isinstance(config, dict) else None


def check_packed(found: Packed | None, config: Model, name: str) -> None:
    """Refuse a checkpoint whose packed weights cannot be read here, before it is loaded.

    Raises
    ------
    ModelError
        With what is missing.
    """
    if found is None:
        return
    if config.quantization is not None and f"{found.bits}bit" != config.quantization:
        raise ModelError(
            f"model.quantization {config.quantization!r} does not go with {name}: its weights are packed "
            f"already, by {found.name}.",
            "Leave model.quantization out, or name the model with whole weights.",
        )
    whole = "Or name the model with whole weights, and set model.quantization (4bit, 8bit) for small ones."
    if found.method == "hqq":
        raise ModelError(
            f"The weights of {name} are packed by {found.name}, which transformers does not read any more.",
            "Name the model with whole weights, and set model.quantization to hqq4 or hqq8.",
        )
    missing = [one for one in _CHECKPOINTS.get(found.method, ()) if extras.missing(one, "")]
    if missing:
        raise ModelError(
            f"The weights of {name} are packed by {found.name}. Reading them needs "
            f"{' and '.join(missing)}, which this machine does not have.",
            f"Install it: pip install {' '.join(missing)}. {whole}",
        )


def loading(config: Model, dtype: Any, device: Device, own: Packed | None = None) -> dict[str, Any]:
    """Keywords of transformers' `from_pretrained` for a quantized model; none for a plain one."""
    if own is not None and own.method in _CHECKPOINTS:  # it says the rest itself
        return {"device_map": {"": device.kind}}
    kind = config.quantization
    if kind is None or kind.startswith("hqq"):
        return {}
    import transformers

    settings: Any
    if kind in ("int8", "fp8"):
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

        settings = transformers.TorchAoConfig(
            Int8WeightOnlyConfig() if kind == "int8" else Float8WeightOnlyConfig()
        )
    elif kind == "8bit":
        settings = transformers.BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"quantization_config": settings, "device_map": {"": device.kind}}


def settle(model: Any, config: Model, dtype: Any, device: Device) -> None:
    """Make of a model that was just loaded what the Recipe asks for, where loading has not done so.

    Raises
    ------
    ModelError
        Where it has no layers that can be quantized.
    """
    if config.quantization is not None and config.quantization.startswith("hqq"):
        from ftkit.models.half_quadratic import quantize

        quantize(model, int(config.quantization[3:]), dtype, device.kind)
    # it would say at every product that inputs are rounded
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for module in model.modules():
        # bitsandbytes would lay its 4-bit weights out anew at the first pass without a gradient, on
        # processors with AVX512-BF16, in a form that has no backward pass
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
