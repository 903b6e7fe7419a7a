"""The fast pieces put into a model by its structure: each on its own, tried beside what it replaces.

A piece goes in where the parts it needs are found (q_proj, k_proj and v_proj beside one another, say), is run
on random input beside the module's own forward, and stays only if both agree. What does not fit, such as
layers with DoRA or dropout, keeps its own code; `Report` says so. Only the `forward` of single modules is
replaced, and `Report.undo` gives it back.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ftkit.fast import allocator, compiled
from ftkit.fast.decoding import is_one_token
from ftkit.fast.gated import ACTIVATIONS, Activation, gated_mlp
from ftkit.fast.lora import Group, Linear, grouped_linear
from ftkit.fast.norms import rms_norm
from ftkit.fast.rotary import rotary, takes
from ftkit.recipe import Fast

_CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Largest difference of a piece from what it replaces, relative to the largest number, by type."""


class NotFittingError(Exception):
    """A piece does not go on a module; the text says why."""


@dataclass
class Report:
    """Which pieces a model runs on.

    Attributes
    ----------
    used
        How many modules each piece serves.
    skipped
        Pieces that are left out, and why, each once.
    """

    used: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    replaced: list[Any] = field(default_factory=list, repr=False)
    within: set[int] = field(default_factory=set, repr=False)
    """Modules whose weights lie in the block of a larger piece: one of their own would hold them twice."""

    def lines(self) -> list[str]:
        """One line a piece, for people."""
        return [f"{name} ({count})" for name, count in self.used.items()] + [
            f"no {name}: {reason}" for name, reason in self.skipped.items()
        ]

    def undo(self) -> None:
        """Give every module its own forward back."""
        for module in self.replaced:
            vars(module).pop("forward", None)
        self.replaced.clear()
        self.within.clear()
        self.used.clear()


def install(model: torch.nn.Module, wanted: Fast, recompute: str = "off") -> Report:
    """Put the pieces that `wanted` names into `model` where they fit.

    Parameters
    ----------
    recompute
        What they make again in the backward: "off", "attention" (its weights) or "mlp" (projections too).
    """
    report = Report()
    if (wanted.norms or wanted.rotary) and (missing := compiled.why_not()):
        report.skipped["compiled kernels"] = missing
    steps: list[tuple[str, Callable[[Report, Any], int]]] = []
    if wanted.norms:
        steps.append(("norms", _norm))
    if wanted.lora:
        if wanted.mlp:
            steps.append(("mlp", functools.partial(_mlp, recompute=recompute == "mlp")))
        steps += [("lora", _projections), ("lora", _single)]
    modules = list(model.modules())
    for piece, put in steps:
        for module in modules:
            try:
                served = put(report, module)
            except NotFittingError as reason:
                report.skipped.setdefault(piece, str(reason))
            else:
                if served:
                    report.used[piece] += served
    for module in modules:
        if hasattr(module, "o_proj") or hasattr(module, "num_key_value_groups"):
            # a layer that is made again whole needs its weights at once: no third time
            module.ftkit_keep = recompute in ("off", "layers")  # type: ignore[assignment]
    if report.used["lora"] or report.used["mlp"]:
        _let_go(model)
    if wanted.rotary:
        for name in {type(module).__module__ for module in modules}:
            _rotary(report, sys.modules.get(name))
    return report


def _swap(report: Report, module: torch.nn.Module, forward: Callable[..., Any]) -> None:
    module.forward = forward
    report.replaced.append(module)


def _free(module: torch.nn.Module) -> bool:
    """Whether no piece serves the module yet."""
    return "forward" not in vars(module)


def _let_go(model: torch.nn.Module) -> None:
    """Copy weights that still lie in the model's file: the file mapped into memory goes when none does.

    What the weights held before they were moved goes back to the system.
    """
    files = allocator.mapped_files()
    with torch.no_grad():
        for tensor in model.parameters():
            still = tensor.device.type == "cpu" and not tensor.requires_grad and tensor.is_contiguous()
            if still and not _apart(tensor.data, files):
                tensor.data = tensor.data.clone()
    allocator.trim()


def _apart(weight: torch.Tensor, files: list[range] | None) -> bool:
    """Whether it has memory of its own already: a copy of a large embedding would stand beside it."""
    if type(weight) is not torch.Tensor or files is None or weight.nbytes < allocator.APART_FROM:
        return False
    alone = weight.nbytes == weight.untyped_storage().nbytes()
    return alone and not any(weight.data_ptr() in file for file in files)


# norms


def _norm(report: Report, module: Any) -> int:
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if (
        "RMSNorm" not in type(module).__name__
        or not isinstance(weight, torch.nn.Parameter)
        or weight.dim() != 1
        or not isinstance(eps, float)
    ):
        return 0
    if weight.requires_grad:
        raise NotFittingError("their weights are trained")
    if not compiled.available(weight):
        raise NotFittingError(compiled.why_not() or f"they compute in {weight.dtype} on {weight.device.type}")
    sample = _sample(weight, 5, len(weight))
    own = module.forward
    for offset in (0.0, 1.0):
        if _agree(rms_norm(sample, weight, eps=eps, offset=offset), own(sample)):
            break
    else:
        raise NotFittingError(f"{type(module).__name__} computes something else")

    def forward(x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, weight, eps=eps, offset=offset) if x.dtype == weight.dtype else own(x)

    _swap(report, module, forward)
    return 1


# LoRA layers


def linear_of(module: Any) -> Linear | None:
    """A frozen linear layer, or one under PEFT's LoRA; None for something else.

    Raises
    ------
    NotFittingError
        For a LoRA layer that does more than add `B A x`.
    """
    base = getattr(module, "base_layer", module)
    if type(base) is not torch.nn.Linear:
        if base is not module and hasattr(module, "lora_A"):
            raise NotFittingError(f"adapters on {type(base).__name__} are left to PEFT")
        return None
    if base.weight.requires_grad or base.weight.dtype not in _CLOSE:
        return None
    if type(base.weight.data) is not torch.Tensor:
        raise NotFittingError(f"weights held as {type(base.weight.data).__name__} are left to PEFT")
    if base is module:
        return Linear(base.weight, base.bias)
    names = list(getattr(module, "active_adapters", []))
    if len(names) != 1:
        return None
    name = names[0]
    if name not in getattr(module, "lora_A", {}):
        kind = type(module).__module__.split(".")[-2]
        raise NotFittingError(f"adapters of another kind ({kind}) are left to PEFT")
    if base.bias is not None and base.bias.requires_grad:
        raise NotFittingError("layers whose bias is trained are left to PEFT")
    if not isinstance(module.lora_A, torch.nn.ModuleDict):
        raise NotFittingError(f"adapters of another kind ({type(module).__name__}) are left to PEFT")
    if getattr(module, "lora_variant", {}).get(name) is not None:
        raise NotFittingError(
            f"a variant of LoRA ({type(module.lora_variant[name]).__name__}) is left to PEFT"
        )
    if type(module.lora_dropout[name]) is not torch.nn.Identity and module.lora_dropout[name].p > 0:
        raise NotFittingError("dropout is left to PEFT")
    a, b = module.lora_A[name], module.lora_B[name]
    if type(a) is not torch.nn.Linear or b.bias is not None:
        raise NotFittingError("adapters with a bias of their own are left to PEFT")
    return Linear(base.weight, base.bias, a.weight, b.weight, float(module.scaling[name]))


def plain(module: Any) -> bool:
    """Whether the layer's adapter is to be used as it stands: neither switched off nor merged."""
    return not (getattr(module, "disable_adapters", False) or getattr(module, "merged", False))


def _group(modules: list[Any]) -> Group | None:
    layers = [linear_of(module) for module in modules]
    if any(layer is None for layer in layers) or all(layer.a is None for layer in layers if layer):
        return None
    found = [layer for layer in layers if layer is not None]
    first = found[0].weight
    if any(one.weight.shape[1] != first.shape[1] or one.weight.dtype != first.dtype for one in found):
        return None
    with allocator.for_weights():
        return Group(found)


def _projections(report: Report, module: Any) -> int:
    """q, k and v of an attention as one product; each call of q_proj makes all three."""
    names = ("q_proj", "k_proj", "v_proj")
    parts = [getattr(module, name, None) for name in names]
    if not all(isinstance(part, torch.nn.Module) and _free(part) for part in parts):
        return 0
    group = _group(parts)
    if group is None:
        return 0
    _Together(report, parts, group)
    return 3


class _Together:
    """Layers that a module calls one after another on one tensor: the first call makes all outputs."""

    def __init__(self, report: Report, modules: list[Any], group: Group) -> None:
        self.group = group
        self.widths = [rows.stop - rows.start for rows in group.rows]
        self.source: torch.Tensor | None = None
        self.waiting: dict[int, torch.Tensor] = {}
        for place, module in enumerate(modules):
            own = module.forward
            _swap(report, module, functools.partial(self.forward, place, module, own))

    def forward(self, place: int, module: Any, own: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
        if not plain(module):
            return own(x)
        if place and self.source is x and place in self.waiting:
            made = self.waiting.pop(place)
            if not self.waiting:
                self.source = None
            return made
        outputs = grouped_linear(x, self.group).split(self.widths, dim=-1)
        self.waiting = {other: output for other, output in enumerate(outputs) if other > place}
        self.source = x if self.waiting else None
        return outputs[place]


def _single(report: Report, module: Any) -> int:
    if not hasattr(module, "lora_A") or not _free(module) or id(module) in report.within:
        return 0
    group = _group([module])
    if group is None:
        return 0
    own = module.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        return grouped_linear(x, group) if plain(module) else own(x)

    _swap(report, module, forward)
    return 1


# gated feed-forward


def _mlp(report: Report, module: Any, recompute: bool) -> int:
    together = hasattr(module, "gate_up_proj")
    names = ("gate_up_proj", "down_proj") if together else ("gate_proj", "up_proj", "down_proj")
    modules = [getattr(module, name, None) for name in names]
    *inputs, down = modules
    if not all(isinstance(part, torch.nn.Module) and _free(part) for part in modules):
        return 0
    activation = _activation(getattr(module, "act_fn", getattr(module, "activation_fn", None)))
    if activation is None:
        raise NotFittingError(f"{type(module).__name__} has another activation")
    first, second = _group(inputs), _group([down])
    if first is None or second is None or first.outputs != 2 * second.inputs:
        return 0
    own = module.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        if not _all_plain(modules) or is_one_token(x):  # the parts have a way of their own for that
            return own(x)
        return gated_mlp(x, first, second, activation, recompute=recompute)

    sample = _sample(first.a, 3, first.inputs)
    with torch.no_grad():
        same = _agree(forward(sample), own(sample))
    if not same:
        raise NotFittingError(f"{type(module).__name__} computes something else")
    _swap(report, module, forward)
    report.within.update(map(id, modules))
    allocator.trim()  # layer by layer: the most is held here, the weights as they were beside where they go
    return 1


def _all_plain(modules: list[Any]) -> bool:
    return all(plain(module) for module in modules)


def _activation(function: Any) -> Activation | None:
    """The known activation that `function` computes."""
    if not callable(function):
        return None
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)
    with torch.no_grad():
        for known in ACTIVATIONS:
            if torch.allclose(function(x), known.forward(x, torch.empty_like(x)), atol=1e-6):
                return known
    return None


# rotary positions


def _rotary(report: Report, source: Any) -> None:
    """Put `rotary` beside a modeling module's function, which keeps what `rotary` does not take."""
    own = getattr(source, "apply_rotary_pos_emb", None)
    if own is None or not str(getattr(source, "__name__", "")).startswith("transformers."):
        return
    if getattr(own, "ftkit", False):
        report.used["rotary"] = 1
        return
    q, k = _like(torch.float32, 1, 2, 5, 8), _like(torch.float32, 1, 1, 5, 8)
    angles = _like(torch.float32, 1, 5, 4).repeat(1, 1, 2)
    if not takes(q, k, angles.cos(), angles.sin()):
        return
    try:
        wanted = own(q, k, angles.cos(), angles.sin())
    except (TypeError, RuntimeError, ValueError, IndexError):
        report.skipped["rotary"] = f"{source.__name__.rpartition('.')[2]} has positions of its own"
        return
    if not all(map(_agree, rotary(q, k, angles.cos(), angles.sin()), wanted)):
        report.skipped["rotary"] = f"{source.__name__.rpartition('.')[2]} turns its heads otherwise"
        return

    @functools.wraps(own)
    def apply(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *rest: Any, **more: Any
    ) -> Any:
        if not rest and not more and takes(q, k, cos, sin):
            return rotary(q, k, cos, sin)
        return own(q, k, cos, sin, *rest, **more)

    apply.ftkit = True  # type: ignore[attr-defined]
    source.apply_rotary_pos_emb = apply
    report.used["rotary"] = 1


# trials


def _sample(like: torch.Tensor, rows: int, width: int) -> torch.Tensor:
    return _like(like.dtype, 1, rows, width).to(like.device)


def _like(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Random numbers that leave torch's own generator where it is."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def _agree(got: torch.Tensor, want: torch.Tensor) -> bool:
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    largest = want.abs().max().clamp(min=1e-6)
    return bool((got - want).abs().max() <= _CLOSE[got.dtype] * largest)
