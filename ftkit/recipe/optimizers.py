"""Optimizers and schedules by name: what each is, which settings it has, which package it needs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ftkit.recipe import extras

OptimizerName = Literal[
    "adamw",
    "adafactor",
    "sgd",
    "lion",
    "muon",
    "galore",
    "apollo",
    "schedule_free",
    "adamw_8bit",
    "paged_adamw_8bit",
    "lion_8bit",
]
ScheduleName = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "warmup_stable_decay",
    "reduce_lr_on_plateau",
]


@dataclass(frozen=True)
class OptimizerKind:
    """An optimizer that a Recipe can ask for.

    Attributes
    ----------
    about
        What it is, in a line, with its paper.
    settings
        Its own settings with their defaults: the keys of `training.optimizer_kwargs`.
    package
        Distribution that brings it, beside torch and transformers; empty for none.
    state_bytes
        Bytes of its state for each trained parameter.
    whole_matrices
        Whether it works on the model's own matrices only, not on an adapter's.
    """

    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    package: str = ""
    state_bytes: float = 8.0
    whole_matrices: bool = False


_BETAS = {"beta1": 0.9, "beta2": 0.999}
_LOW_RANK = {"rank": 16, "update_interval": 200}
OPTIMIZERS: Mapping[str, OptimizerKind] = {
    "adamw": OptimizerKind("Adam with decoupled weight decay (arXiv:1711.05101).", {**_BETAS, "eps": 1e-8}),
    "adafactor": OptimizerKind("Adam's second moment by rows and columns (arXiv:1804.04235).", {}, "", 0.1),
    "sgd": OptimizerKind("Plain gradient descent.", {"momentum": 0.0, "nesterov": False}, "", 0.0),
    "lion": OptimizerKind(
        "Signs of an average; a rate a tenth of AdamW's (arXiv:2302.06675).",
        {"beta1": 0.9, "beta2": 0.99},
        "pytorch-optimizer",
        4.0,
    ),
    "muon": OptimizerKind(
        "Orthogonal updates for matrices, AdamW for the rest (kellerjordan.github.io/posts/muon).",
        {"momentum": 0.95, "nesterov": True, "ns_steps": 5},
        "",
        4.0,
    ),
    "galore": OptimizerKind(
        "AdamW on gradients of low rank (arXiv:2403.03507).",
        {**_LOW_RANK, "scale": 2.0, "projection": "std"},
        "pytorch-optimizer",
        1.0,
        whole_matrices=True,
    ),
    "apollo": OptimizerKind(
        "AdamW's scale from a random projection (arXiv:2412.05270).",
        {
            **_LOW_RANK,
            "scale": 32.0,
            "projection": "random",
            "projection_side": "std",
            "scale_type": "channel",
            "scale_front": False,
        },
        "apollo-torch",
        1.0,
        whole_matrices=True,
    ),
    "schedule_free": OptimizerKind(
        "AdamW that averages instead of lowering its rate (arXiv:2405.15682).",
        {**_BETAS, "r": 0.0, "weight_lr_power": 2.0},
        "pytorch-optimizer",
    ),
    "adamw_8bit": OptimizerKind(
        "AdamW with its state in 8 bits (arXiv:2110.02861).", _BETAS, "bitsandbytes", 2.0
    ),
    "paged_adamw_8bit": OptimizerKind(
        "The same, its state moved out of a full GPU (arXiv:2305.14314).", _BETAS, "bitsandbytes", 2.0
    ),
    "lion_8bit": OptimizerKind(
        "Lion with its state in 8 bits.", {"beta1": 0.9, "beta2": 0.99}, "bitsandbytes", 1.0
    ),
}
_MIN_RATE = {"min_lr": None, "min_lr_rate": None, "num_cycles": 0.5}
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "linear": {},
    "cosine": {"num_cycles": 0.5},
    "cosine_with_restarts": {"num_cycles": 1},
    "cosine_with_min_lr": _MIN_RATE,
    "cosine_warmup_with_min_lr": {**_MIN_RATE, "warmup_lr_rate": None},
    "polynomial": {"lr_end": 1e-7, "power": 1.0},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {"timescale": None},
    "warmup_stable_decay": {
        "num_decay_steps": None,
        "num_stable_steps": None,
        "warmup_type": "linear",
        "decay_type": "cosine",
        "min_lr_ratio": 0.0,
        "num_cycles": 0.5,
    },
    "reduce_lr_on_plateau": {"factor": 0.5, "patience": 1, "threshold": 1e-4, "min_lr": 0.0},
}
"""Settings of each schedule with their defaults: the keys of `training.lr_scheduler_kwargs`."""


def why_not(name: str) -> str:
    """Why an optimizer cannot be had on this machine; empty where it can."""
    if name == "muon":
        return extras.older("torch", (2, 9))
    return extras.missing(OPTIMIZERS[name].package, "optimizers")


def check_settings(given: Mapping[str, Any], known: Mapping[str, Any], of: str, path: str) -> None:
    """Every key is known, and every value of its kind.

    Raises
    ------
    ValueError
        Otherwise, with the field's path.
    """
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known) or 'none'}"
            raise ValueError(f"{path}.{name}: {of} has no such setting; {hint}")
        default = known[name]
        if isinstance(default, bool) or isinstance(value, bool):
            fits = isinstance(value, bool) and isinstance(default, bool)
        elif isinstance(default, str):
            fits = isinstance(value, str)
        else:
            fits = isinstance(value, (int, float)) or (value is None and default is None)
        if not fits:
            raise ValueError(f"{path}.{name}: {value!r} is not like {default!r}, its default")
