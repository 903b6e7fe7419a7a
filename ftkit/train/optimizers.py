"""The optimizer of a Recipe: which parameters learn how fast, by which rule, from which package.

Names and settings stand in `ftkit.recipe.optimizers`; here each is made. What an optimizer keeps must be
tensors and plain values, so that a checkpoint can hold it: where a package keeps objects, they are taken
apart and put together again.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers import Adafactor
from transformers.trainer_pt_utils import get_parameter_names

from ftkit.errors import RunError
from ftkit.models.blocks import find
from ftkit.recipe import LoRA, Recipe, Training
from ftkit.recipe.optimizers import OPTIMIZERS, SCHEDULES, why_not
from ftkit.train.blockwise import LayerByLayer

_NO_DECAY = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")
"""As in transformers' Trainer."""
_NEVER = 2**62
"""Steps between two estimates that a package would make by itself."""
Groups = list[dict[str, Any]]
Settings = Mapping[str, Any]


def create(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The Recipe's optimizer over the model's trained parameters.

    Raises
    ------
    RunError
        Where it cannot be had on this machine.
    """
    name = recipe.training.optimizer
    if reason := why_not(name):
        raise RunError(
            f"training.optimizer {name!r} {reason}.", "Install it, or choose another training.optimizer."
        )
    settings = {**OPTIMIZERS[name].settings, **recipe.training.optimizer_kwargs}
    if OPTIMIZERS[name].by_layers:
        _freeze_all_but_layers(model)
    return _MAKERS[name](parameter_groups(model, recipe), settings, model)


# Which parameters


def parameter_groups(model: torch.nn.Module, recipe: Recipe) -> Groups:
    """The trained parameters, those of one learning rate and one weight decay together.

    Returns
    -------
    list of dict
        `params`, `weight_decay` and `lr`, as torch's optimizers take them; always in the same order.
    """
    training = recipe.training
    decayed = set(get_parameter_names(model, [torch.nn.LayerNorm], list(_NO_DECAY)))
    rate_of = _rates(model, recipe)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = training.weight_decay if name in decayed else 0.0
            groups.setdefault((rate_of(name), decay), []).append(parameter)
    # the first group's rate is the one that is shown
    ordered = sorted(groups.items(), key=lambda one: one[0][0] != training.learning_rate)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in ordered
    ]


def _rates(model: Any, recipe: Recipe) -> Callable[[str], float]:
    """The learning rate of a parameter by its name: LoRA+, embeddings, layers."""
    training, method = recipe.training, recipe.method
    ratio = method.loraplus_ratio if isinstance(method, LoRA) else None
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    depth, words = 0, ""
    if training.layerwise_decay is not None or training.embedding_learning_rate is not None:
        layers, path = find(base)
        depth, words = len(layers), _path_of(base, base.get_input_embeddings())
        number = re.compile(rf"(?:^|\.){re.escape(path)}\.(\d+)\.")

    def rate(name: str) -> float:
        is_word = bool(words) and f"{words}." in f"{name}."
        if is_word and training.embedding_learning_rate is not None:
            return training.embedding_learning_rate
        made = training.learning_rate
        if training.layerwise_decay is not None:
            found = number.search(name)
            below = depth - 1 - int(found[1]) if found else depth if is_word else 0
            made *= training.layerwise_decay**below
        if ratio and ("lora_B" in name or "lora_embedding_B" in name):
            made *= ratio
        return made

    return rate


def _path_of(model: torch.nn.Module, module: torch.nn.Module) -> str:
    return next((path for path, one in model.named_modules() if one is module), "")


# By which rule


def _adam(settings: Settings) -> dict[str, Any]:
    return {"betas": (settings["beta1"], settings["beta2"])}


def _adamw(groups: Groups, settings: Settings, model: Any) -> Any:
    # As one kernel it needs no copies of a matrix beside it, which for a large embedding are most of a step's
    # peak. It leaves the parameters' version as it was, by which `ftkit.fast.lora` notices that they moved.
    alone = None if hasattr(model, "peft_config") else True
    return torch.optim.AdamW(groups, eps=settings["eps"], fused=alone, **_adam(settings))


def _adafactor(groups: Groups, settings: Settings, model: Any) -> Any:
    return Adafactor(groups, scale_parameter=False, relative_step=False)


def _sgd(groups: Groups, settings: Settings, model: Any) -> Any:
    return torch.optim.SGD(groups, **settings)


def _lion(groups: Groups, settings: Settings, model: Any) -> Any:
    return importlib.import_module("pytorch_optimizer").Lion(groups, **_adam(settings))


def _bitsandbytes(name: str, **more: Any) -> Callable[[Groups, Settings, Any], Any]:
    def make(groups: Groups, settings: Settings, model: Any) -> Any:
        kind = getattr(importlib.import_module("bitsandbytes.optim"), name)
        return _noticed(kind)(groups, **_adam(settings), **more)

    return make


def _schedule_free(groups: Groups, settings: Settings, model: Any) -> Any:
    kind = importlib.import_module("pytorch_optimizer").ScheduleFreeAdamW
    made = kind(groups, **_adam(settings), r=settings["r"], weight_lr_power=settings["weight_lr_power"])
    made.train()
    return made


def _muon(groups: Groups, settings: Settings, model: Any) -> Any:
    words = {id(p) for p in model.get_input_embeddings().parameters()}
    head = model.get_output_embeddings()
    words |= {id(p) for p in head.parameters()} if head is not None else set()
    matrices, rest = _split(groups, lambda p: p.dim() == 2 and id(p) not in words)
    # RMS matching lets one learning rate serve both (arXiv:2502.16982)
    parts = [torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings)] if matrices else []
    return Together([*parts, *([torch.optim.AdamW(rest)] if rest else [])])


def _galore(groups: Groups, settings: Settings, model: Any) -> Any:
    kind = importlib.import_module("pytorch_optimizer").GaLore
    projector = importlib.import_module("pytorch_optimizer.optimizer.utils.galore").GaLoreProjector
    more = {
        "rank": settings["rank"],
        "update_proj_gap": settings["update_interval"],
        "scale": settings["scale"],
        "projection_type": settings["projection"],
    }
    made = _plain(kind, lambda one, group, state: projector(**{name: group[name] for name in more}))
    return made(_low_rank(groups, more, model, settings["target_modules"]))


def _apollo(groups: Groups, settings: Settings, model: Any) -> Any:
    kind = importlib.import_module("apollo_torch").APOLLOAdamW
    more = {
        "rank": settings["rank"],
        "update_proj_gap": settings["update_interval"],
        "scale": settings["scale"],
        "proj": settings["projection"],
        "proj_type": settings["projection_side"],
        "scale_type": settings["scale_type"],
    }
    made = _plain(kind, lambda one, group, state: one._initialize_projector(group, state))
    marked = _low_rank(groups, more, model, settings["target_modules"])
    return made(marked, scale_front=settings["scale_front"])


def _badam(groups: Groups, settings: Settings, model: Any) -> Any:
    layers = _trained_layers(model)
    first = settings["start_block"]
    if first is not None and first >= len(layers):
        raise RunError(
            f"training.optimizer_kwargs.start_block is {first}, and {len(layers)} layers are trained.",
            f"Choose 0 to {len(layers) - 1}, or leave it out.",
        )
    return LayerByLayer(
        groups,
        layers,
        interval=settings["switch_interval"],
        mode=settings["switch_mode"],
        first=first,
        eps=settings["eps"],
        **_adam(settings),
    )


def _adam_mini(groups: Groups, settings: Settings, model: Any) -> Any:
    # the authors' own package fails on experts that lie in one block and on adapters
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kind = importlib.import_module("pytorch_optimizer").AdamMini
    made = kind(model, num_embeds=heads * size, num_heads=heads, eps=settings["eps"], **_adam(settings))
    rates = {id(p): group for group in groups for p in group["params"]}
    for group in made.param_groups:  # one for each parameter
        (parameter,) = group["params"]
        group["lr"], group["weight_decay"] = (rates[id(parameter)][name] for name in ("lr", "weight_decay"))
        if "parameter_per_head" in group:  # it takes the heads' size for their share of the width
            group["parameter_per_head"] = size * parameter.shape[-1]
    made.param_groups.sort(key=lambda group: group["lr"] != groups[0]["lr"])
    return made


def _ademamix(groups: Groups, settings: Settings, model: Any) -> Any:
    betas = (settings["beta1"], settings["beta2"], settings["beta3"])
    kind = importlib.import_module("pytorch_optimizer").AdEMAMix
    return kind(groups, betas=betas, alpha=settings["alpha"], weight_decouple=True)


def _sophia(groups: Groups, settings: Settings, model: Any) -> Any:
    kind = importlib.import_module("pytorch_optimizer").SophiaH
    made = _with_curvature(kind, settings["update_interval"], settings["rho"])
    return made(groups, **_adam(settings), p=1.0, update_period=_NEVER)


def _adagrad(groups: Groups, settings: Settings, model: Any) -> Any:
    return torch.optim.Adagrad(groups, **settings)


def _rmsprop(groups: Groups, settings: Settings, model: Any) -> Any:
    return torch.optim.RMSprop(groups, **settings)


_MAKERS: Mapping[str, Callable[[Groups, Settings, Any], Any]] = {
    "adamw": _adamw,
    "adafactor": _adafactor,
    "sgd": _sgd,
    "lion": _lion,
    "muon": _muon,
    "galore": _galore,
    "apollo": _apollo,
    "badam": _badam,
    "adam_mini": _adam_mini,
    "ademamix": _ademamix,
    "sophia": _sophia,
    "schedule_free": _schedule_free,
    "adamw_8bit": _bitsandbytes("AdamW8bit"),
    "paged_adamw_8bit": _bitsandbytes("PagedAdamW8bit"),
    "lion_8bit": _bitsandbytes("Lion8bit"),
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
}


def _split(groups: Groups, chosen: Callable[[torch.nn.Parameter], bool]) -> tuple[Groups, Groups]:
    """The groups of parameters that are chosen, and of the others; empty ones are left out."""
    both: tuple[Groups, Groups] = ([], [])
    for group in groups:
        for place, wanted in enumerate((True, False)):
            parameters = [p for p in group["params"] if chosen(p) is wanted]
            if parameters:
                both[place].append({**group, "params": parameters})
    return both


def _low_rank(groups: Groups, more: Settings, model: Any, names: Iterable[str] = ()) -> Groups:
    """Groups in which the matrices of decoder layers are marked for projection: all, or those in modules of
    these names.

    Raises
    ------
    RunError
        Where a name is none of the layers'.
    """
    layers, _ = find(model)
    paths = {path: p for layer in layers[:1] for path, p in layer.named_parameters()}
    for name in names:
        if not any(name in path.split(".") for path in paths):
            raise RunError(
                f"training.optimizer_kwargs.target_modules names {name!r}, which is no part of a layer.",
                "Name modules of a decoder layer, such as q_proj or mlp; or leave it out for all.",
            )
    chosen = set(names)
    inside = {
        id(p)
        for layer in layers
        for path, p in layer.named_parameters()
        if p.dim() == 2 and (not chosen or chosen & set(path.split(".")))
    }
    matrices, rest = _split(groups, lambda p: id(p) in inside)
    return [*({**group, **more} for group in matrices), *rest]


def _trained_layers(model: Any) -> list[list[torch.nn.Parameter]]:
    """The trained parameters of each decoder layer that has some."""
    layers, _ = find(model)
    trained = ([p for p in layer.parameters() if p.requires_grad] for layer in layers)
    return [layer for layer in trained if layer]


def _freeze_all_but_layers(model: Any) -> None:
    """What is in no decoder layer would never have its turn."""
    inside = {id(p) for layer in _trained_layers(model) for p in layer}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in inside)


class Together(torch.optim.Optimizer):
    """Several optimizers as one: each steps its own parameters."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([{"params": group["params"]} for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """One set of groups for the parts and for the schedule that moves their rates."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """A step of each."""
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of each."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give each its state."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()


def _plain(kind: Any, projector: Callable[[Any, Any, Any], Any]) -> Any:
    """A class of optimizer whose `projector` objects go into a checkpoint as their plain parts."""

    class Plain(kind):
        def state_dict(self) -> Any:
            made = super().state_dict()
            states = {
                key: {name: _parts(value) if name == "projector" else value for name, value in one.items()}
                for key, one in made["state"].items()
            }
            return {**made, "state": states}

        def load_state_dict(self, state_dict: Any) -> None:
            super().load_state_dict(state_dict)
            for group in self.param_groups:
                for parameter in group["params"]:
                    state = self.state.get(parameter, {})
                    if isinstance(state.get("projector"), dict):
                        parts = state["projector"]
                        state["projector"] = projector(self, group, state)
                        vars(state["projector"]).update(parts)

    Plain.__name__ = kind.__name__
    return Plain


def _parts(projector: Any) -> dict[str, Any]:
    """What a projector has gathered; its texts come from the group again (torch would take them apart)."""
    return {name: value for name, value in vars(projector).items() if not isinstance(value, str)}


def _noticed(kind: Any) -> Any:
    """A class of optimizer whose changes are noticed: its own kernels write past torch's counters, by which
    ftkit's layers know that an adapter has moved."""

    class Noticed(kind):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            done = super().step(closure)
            moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_mul_(moved, 1.0)
            return done

    Noticed.__name__ = kind.__name__
    return Noticed


def _with_curvature(kind: Any, interval: int, rho: float) -> Any:
    """Sophia, which takes `curvature`, a tensor for each parameter, where `due`: its own estimate needs
    second derivatives."""

    class WithCurvature(kind):
        curvature: list[torch.Tensor] | None = None

        @property
        def due(self) -> bool:
            return self.curvature is None and self.param_groups[0].get("step", 0) % interval == 0

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            found, self.curvature = self.curvature, None
            # clip(m / max(rho h, eps), 1): h counts rho times
            done = super().step(closure, hessian=None if found is None else [rho * one for one in found])
            for state in self.state.values():
                state.pop("hessian", None)
            return done

    WithCurvature.__name__ = kind.__name__
    return WithCurvature


# Schedules

_LEAST_RATE = 0.1
"""Share of the peak rate at which a schedule with a least rate ends, where none is named."""
_DECAY = 0.2
"""Share of the steps over which warm-up, stable, decay decays, where none is named."""


def schedule_settings(training: Training, steps: int) -> dict[str, Any]:
    """Settings of the schedule as transformers takes them: those given, and those it cannot do without."""
    given = dict(training.lr_scheduler_kwargs)
    name = training.lr_scheduler
    if "min_lr_rate" in SCHEDULES[name] and not {"min_lr", "min_lr_rate"} & given.keys():
        given["min_lr_rate"] = _LEAST_RATE
    if name == "warmup_stable_decay" and given.get("num_decay_steps") is None:
        given["num_decay_steps"] = max(1, round(_DECAY * steps))
    if name == "reduce_lr_on_plateau":
        given = {**SCHEDULES[name], **given}
    return given
