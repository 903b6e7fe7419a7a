"""What of a Recipe's choices this machine cannot do, and why: for panels to grey out, and to refuse at Start.

Packages are looked for without an import; torch is asked only where there is an NVIDIA driver.
"""

from __future__ import annotations

from typing import Any, get_args

from ftkit.models import precision
from ftkit.models.device import Device, probe
from ftkit.recipe import Compute, Recipe, cards, extras, optimizers


def lacking(device: Device) -> dict[str, dict[str, str]]:
    """Of each of `ftkit.recipe.extras.FIELDS` the values that cannot be had with `device`, and why."""
    precisions = precision.available(device)
    dtypes = get_args(Compute.model_fields["dtype"].annotation)
    found = {
        "model.quantization": {name: why for name, why in precisions.items() if name not in dtypes},
        "compute.dtype": {name: why for name, why in precisions.items() if name in dtypes},
        "compute.device": {"cuda": "" if device.kind == "cuda" or _has_gpu() else "needs a CUDA GPU"},
        "compute.backend": {"unsloth": extras.missing("unsloth", "unsloth")},
        "compute.launch": {"ray": extras.missing("ray", "ray")},
        "training.optimizer": {name: optimizers.why_not(name) for name in optimizers.OPTIMIZERS},
    }
    return {field: {name: why for name, why in values.items() if why} for field, values in found.items()}


def refused(recipe: Recipe) -> dict[str, str]:
    """The fields of a Recipe that this machine cannot carry out, each with the value and the reason."""
    found = {}
    for field, values in lacking(probe(recipe.compute.device)).items():
        section, name = field.split(".")
        value = getattr(getattr(recipe, section), name)
        if value in values:
            found[field] = f"{value!r} {values[value]}"
    kinds: dict[str, Any] = {"method": recipe.method, "objective": recipe.objective}
    for section, kind in kinds.items():
        if why := cards.why_not(section, kind.type):
            found[f"{section}.type"] = f"{kind.type!r} {why}"
    return found


def _has_gpu() -> bool:
    return probe("auto").kind == "cuda"
