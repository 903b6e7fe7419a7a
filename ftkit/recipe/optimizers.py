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
    "badam",
    "adam_mini",
    "ademamix",
    "sophia",
    "schedule_free",
    "adamw_8bit",
    "paged_adamw_8bit",
    "lion_8bit",
    "adagrad",
    "rmsprop",
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
    by_layers
        Whether only one decoder layer has gradients and a state at a time.
    choices
        The values that a setting may have, where it is a word.
    """

    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    package: str = ""
    state_bytes: float = 8.0
    whole_matrices: bool = False
    by_layers: bool = False
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_BETAS = {"beta1": 0.9, "beta2": 0.999}
_LOW_RANK = {"rank": 16, "update_interval": 200, "target_modules": ()}
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
        choices={"projection": ("std", "reverse_std", "right", "left", "full")},
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
        choices={
            "projection": ("random", "svd"),
            "projection_side": ("std", "right", "left"),
            "scale_type": ("channel", "tensor"),
        },
    ),
    "badam": OptimizerKind(
        "AdamW on one decoder layer after the other; the rest stands still (arXiv:2404.02827).",
        {**_BETAS, "eps": 1e-8, "switch_interval": 50, "switch_mode": "ascending", "start_block": None},
        whole_matrices=True,
        by_layers=True,
        choices={"switch_mode": ("ascending", "descending", "random", "fixed")},
    ),
    "adam_mini": OptimizerKind(
        "AdamW with one second moment for each head or matrix (arXiv:2406.16793).",
        {**_BETAS, "eps": 1e-8},
        "pytorch-optimizer",
        4.0,
    ),
    "ademamix": OptimizerKind(
        "AdamW with a second, slower average of the gradient (arXiv:2409.03137).",
        {**_BETAS, "beta3": 0.9999, "alpha": 5.0},
        "pytorch-optimizer",
        12.0,
    ),
    "sophia": OptimizerKind(
        "Steps by how sharply the loss bends, measured now and then (arXiv:2305.14342).",
        {"beta1": 0.965, "beta2": 0.99, "rho": 0.04, "update_interval": 10},
        "pytorch-optimizer",
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
    "adagrad": OptimizerKind(
        "Rates that fall with all past gradients (JMLR 12:2121).", {"eps": 1e-10}, "", 4.0
    ),
    "rmsprop": OptimizerKind(
        "Gradients over their recent size (Tieleman and Hinton, 2012).",
        {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0},
        "",
        8.0,
    ),
}
_ABOVE_0 = ("rank", "update_interval", "switch_interval", "ns_steps")
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
_ABOVE_0 = ("rank", "update_interval", "switch_interval", "ns_steps")


def why_not(name: str) -> str:
    """Why an optimizer cannot be had on this machine; empty where it can."""
    if name == "muon":
        return extras.older("torch", (2, 9))
    return extras.missing(OPTIMIZERS[name].package, "optimizers")


def check_settings(
    given: Mapping[str, Any],
    known: Mapping[str, Any],
    of: str,
    path: str,
    choices: Mapping[str, tuple[str, ...]] | None = None,
) -> None:
    """Every key is known, and every value of its kind, and among its `choices` where it has some.

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
        elif isinstance(default, tuple):
            fits = isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
        else:
            fits = isinstance(value, (int, float)) or (value is None and default is None)
        if not fits:
            raise ValueError(f"{path}.{name}: {value!r} is not like {default!r}, its default")
        allowed = (choices or {}).get(name)
        if allowed and value not in allowed:
            raise ValueError(f"{path}.{name}: {value!r} is none of {', '.join(allowed)}")
        if name in _ABOVE_0 and not (value >= 1 and float(value).is_integer()):
            raise ValueError(f"{path}.{name}: {value!r} is no whole number above 0")
        if name == "start_block" and value is not None and not (value >= 0 and float(value).is_integer()):
            raise ValueError(f"{path}.{name}: {value!r} is no number of a layer, counted from 0")
