"""A model whose optimizer states, and gradients, are shared out among the ranks by DeepSpeed (ZeRO 1 and 2).

Every rank holds the weights whole. DeepSpeed is shown the trained parameters alone: the rest of the model, in
whatever precision, is none of its business. It clips gradients and steps by itself, at the end of the last
backward pass of a step. What it keeps of a parameter is put together for a checkpoint, which is as any other.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import torch

from ftkit.recipe.engine import Zero
from ftkit.train.holding import Holding
from ftkit.train.ranks import Ranks

Parameters = list[list[torch.nn.Parameter]]


class Zeroed(Holding):
    """Every rank holds the weights, and its share of the optimizer's states."""

    def __init__(self, engine: Zero, ranks: Ranks) -> None:
        super().__init__(engine.notes)
        self.engine = engine
        self.ranks = ranks
        self._at_work: Any = None
        self._groups: Parameters = []

    def describe(self) -> str:
        """What it is."""
        return f"DeepSpeed ZeRO-{self.engine.stage} over {self.ranks.count} processes"

    def wrapped(self, trainer: Any) -> torch.nn.Module:
        """A module whose passes DeepSpeed sees; the trainer's optimizer and backward become DeepSpeed's."""
        self._let_go()
        deepspeed = _import(trainer.accelerator.device.type)
        optimizer = trainer.optimizer
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        shown = _Shown(trainer.model, self._groups)
        config = copy.deepcopy(dict(self.engine.settings))
        self._at_work, *_ = deepspeed.initialize(
            model=shown, optimizer=optimizer, config=config, dist_init_required=False
        )
        trainer.optimizer = _Groups(optimizer)
        trainer.accelerator.backward = self._backward(trainer.accelerator)
        return _Passes(self._at_work, shown)

    def _backward(self, accelerator: Any) -> Callable[..., None]:
        def backward(loss: torch.Tensor, **_: Any) -> None:
            last = accelerator.gradient_state.sync_gradients
            self._at_work.set_gradient_accumulation_boundary(is_boundary=last)
            self._at_work.backward(loss)
            if last:
                self._at_work.step()
                moved: list[torch.Tensor] = [parameter for group in self._groups for parameter in group]
                with torch.no_grad():
                    # it writes past torch's counters, by which ftkit's layers know that an adapter has moved
                    torch._foreach_mul_(moved, 1.0)

        return backward

    def _let_go(self) -> None:
        """Take DeepSpeed's hooks off the weights: a trainer that follows gets its own."""
        if self._at_work is not None:
            self._at_work.destroy()
            self._at_work = None

    def through(self, model: torch.nn.Module) -> torch.nn.Module | None:
        """Only training passes go through DeepSpeed."""
        return model if isinstance(model, _Passes) else None

    def grad_norm(self) -> float | None:
        """Of the step that DeepSpeed has just taken."""
        return float(self._at_work.get_global_grad_norm())

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """As torch's optimizers write it, each parameter's own."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state, safe_get_full_optimizer_state

        inner, parts = self._inner()
        state: dict[int, dict[str, Any]] = {}
        number = 0
        for group, part in zip(self._groups, parts, strict=True):
            kept = inner.state.get(part, {})
            if (
                kept
            ):  # DeepSpeed links what it keeps after the first group's first step: others have none then
                lazy_init_hp_params_optimizer_state(group, part, inner.state)
            for parameter in group:
                of_one = {
                    name: safe_get_full_optimizer_state(parameter, name) if _moves(value, part) else value
                    for name, value in kept.items()
                }
                if of_one:
                    state[number] = {
                        name: value.cpu() if torch.is_tensor(value) else value
                        for name, value in of_one.items()
                    }
                number += 1
        return {"state": state, "param_groups": _numbered(inner.param_groups, self._groups)}

    def load_optimizer_state(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Each rank takes its share of every parameter's state."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state, safe_set_full_optimizer_state

        inner, parts = self._inner()
        number = 0
        for group, part in zip(self._groups, parts, strict=True):
            known = [state["state"].get(number + place, {}) for place in range(len(group))]
            inner.state[part] = {
                name: torch.zeros_like(part) if _moves(value, group[0]) else value
                for name, value in known[0].items()
            }
            lazy_init_hp_params_optimizer_state(group, part, inner.state)
            for parameter, of_one in zip(group, known, strict=True):
                for name, value in of_one.items():
                    if _moves(value, parameter):
                        safe_set_full_optimizer_state(parameter, value.to(parameter.device), name)
            number += len(group)
        for mine, kept in zip(inner.param_groups, state["param_groups"], strict=True):
            mine.update({name: value for name, value in kept.items() if name != "params"})

    def _inner(self) -> tuple[Any, list[torch.Tensor]]:
        """The torch optimizer, and this rank's part of each of its groups, flat."""
        zero = self._at_work.optimizer
        return zero.optimizer, list(zero.single_partition_of_fp32_groups)


def _import(device: str) -> Any:
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    return deepspeed


def _moves(value: Any, parameter: torch.Tensor) -> bool:
    """Whether a value of an optimizer's state has one number for each of the parameter's."""
    return torch.is_tensor(value) and value.shape == parameter.shape


def _numbered(groups: list[dict[str, Any]], parameters: Parameters) -> list[dict[str, Any]]:
    made, number = [], 0
    for group, own in zip(groups, parameters, strict=True):
        rest = {name: value for name, value in group.items() if name != "params"}
        made.append({**rest, "params": list(range(number, number + len(own)))})
        number += len(own)
    return made


class _Shown(torch.nn.Module):
    """What DeepSpeed is shown of a model: its trained parameters, and a pass that is all that is asked."""

    def __init__(self, model: torch.nn.Module, groups: Parameters) -> None:
        super().__init__()
        self.trained = torch.nn.ParameterList([parameter for group in groups for parameter in group])
        self._behind = (model,)  # in a tuple: no part of this module

    def forward(self, ask: Callable[..., Any], *given: Any) -> Any:
        return ask(*given)

    def train(self, mode: bool = True) -> _Shown:
        self._behind[0].train(mode)
        return super().train(mode)


class _Passes(torch.nn.Module):
    """What the trainer holds: DeepSpeed's engine, without what the trainer would do to it."""

    def __init__(self, engine: torch.nn.Module, shown: _Shown) -> None:
        super().__init__()
        self.shown = shown
        self._engine = (engine,)

    def forward(self, *given: Any) -> Any:
        return self._engine[0](*given)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """DeepSpeed does at the end of its step."""


class _Groups(torch.optim.Optimizer):
    """The groups that a schedule moves the rates of; the steps are DeepSpeed's."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__([{"params": group["params"]} for group in inner.param_groups], {})
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Taken already."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Done already."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see `Zeroed.optimizer_state`."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""
