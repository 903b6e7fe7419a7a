"""A model split over the ranks by FSDP2: each holds a share of all weights, gradients and optimizer states.

A decoder layer's weights are fetched together before it computes, and let go after; what is outside the
layers (embeddings, last norm, head) is fetched at the start of a pass and stays until its end, so that the
loss may read the head's weights. Checkpoints and results are whole: rank 0 puts the shares together.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ftkit.errors import RunError
from ftkit.models.blocks import find
from ftkit.recipe import Fast
from ftkit.recipe.engine import Shards
from ftkit.train.holding import Holding, Whole
from ftkit.train.ranks import Ranks

_LEFT_OUT = ("lora", "mlp", "norms")
"""Fast pieces that hold weights of their own, or keep hold of a module's: a share is none of them."""


class Sharded(Holding):
    """Every rank holds a share of every weight."""

    answers = False

    def __init__(self, engine: Shards, ranks: Ranks) -> None:
        super().__init__(engine.notes)
        self.engine = engine
        self.ranks = ranks
        self.whole: Whole

    def describe(self) -> str:
        """What it is."""
        return f"FSDP2 over {self.ranks.count} processes"

    def fast(self, wanted: Fast) -> Fast:
        """Without the pieces that need weights to stay where they are."""
        off = [name for name in _LEFT_OUT if getattr(wanted, name)]
        if off:
            text = f"The weights are split: fast pieces that need them whole are off ({', '.join(off)})."
            self.notes = (*self.notes, text)
        return wanted.model_copy(update=dict.fromkeys(off, False))

    def take(self, model: torch.nn.Module) -> None:
        """Split the weights: layer by layer, then what is left."""
        device = next(model.parameters()).device.type
        # of the group that all are in: one of its own would lose its patience in a long pause
        group = distributed.group.WORLD
        assert group is not None
        offload = CPUOffloadPolicy() if self.engine.offload and device != "cpu" else OffloadPolicy()
        settings: dict[str, Any] = {"mesh": DeviceMesh.from_group(group, device), "offload_policy": offload}
        self.whole = Whole(model)
        for unit in self._units(model):
            fully_shard(unit, reshard_after_forward=self.engine.reshard, **settings)
        fully_shard(self.whole, **settings)

    def _units(self, model: Any) -> list[torch.nn.Module]:
        if not self.engine.by_layer:
            return []
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        layers, _ = find(base)
        if not self.engine.layers:
            return list(layers)
        inside = [module for layer in layers for module in layer.modules()]
        found = [module for module in inside if type(module).__name__ in self.engine.layers]
        if not found:
            names = ", ".join(self.engine.layers)
            raise RunError(
                f"compute.engine_config names layers of class {names:.200}: {type(base).__name__} has none.",
                f"Leave fsdp_transformer_layer_cls_to_wrap out, or name {type(layers[0]).__name__}.",
            )
        return found[::-1]  # inner ones first

    def wrapped(self, trainer: Any) -> torch.nn.Module:
        """The whole, of which FSDP knows when it begins and ends."""
        return self.whole

    def through(self, model: torch.nn.Module) -> torch.nn.Module | None:
        """Every pass has to go through it, evaluation too."""
        return self.whole

    def all_finite(self, found: bool) -> bool:
        """Whether all shares are."""
        return self.ranks.total([float(not found)])[0] == 0

    @contextlib.contextmanager
    def weights(
        self, model: torch.nn.Module, *, all_of_them: bool = False, change: bool = False
    ) -> Iterator[None]:
        """Whole parameters, on the CPU, in place of the shares while it lasts."""
        _reshard(self.whole)
        shares: list[tuple[torch.nn.Module, str, Any]] = []
        made: dict[Any, torch.nn.Parameter | None] = {}  # tied weights are one parameter, on all ranks
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if isinstance(parameter, DTensor) and (all_of_them or parameter.requires_grad):
                    shares.append((module, name, parameter))
        for share in dict.fromkeys(share for _, _, share in shares):
            full = share.detach().full_tensor()
            wanted = self.ranks.number == 0 or change
            made[share] = torch.nn.Parameter(full.cpu(), share.requires_grad) if wanted else None
        for module, name, share in shares:
            module._parameters[name] = share if made[share] is None else made[share]
        try:
            with _unhooked(module for module, _, _ in shares):
                yield
            if change:
                _put(shares)
        finally:
            for module, name, share in shares:
                module._parameters[name] = share

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Every share put together, in the optimizer's own order."""
        state: dict[str, Any] = _put_together(optimizer.state_dict(), keep=self.ranks.number == 0)
        return state

    def load_optimizer_state(self, optimizer: Any, state: dict[str, Any]) -> None:
        """Each rank takes its share."""
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        shared = {
            number: {name: _share(value, parameters[number]) for name, value in of_one.items()}
            for number, of_one in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": shared})


def _reshard(whole: torch.nn.Module) -> None:
    """Let go of what a pass without a backward has left whole."""
    for module in whole.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextlib.contextmanager
def _unhooked(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Without what FSDP does after weights are loaded: it would look for shares."""
    kept = {module: module._load_state_dict_post_hooks for module in modules}
    for module in kept:
        module._load_state_dict_post_hooks = OrderedDict()
    try:
        yield
    finally:
        for module, hooks in kept.items():
            module._load_state_dict_post_hooks = hooks


@torch.no_grad()
def _put(shares: list[tuple[torch.nn.Module, str, Any]]) -> None:
    """Whole parameters, as they are in their modules now, back into the shares."""
    for module, name, share in shares:
        full = module._parameters[name]
        assert full is not None
        own = _share(full.detach().to(share.dtype), share)
        share.to_local().copy_(own.to_local())


def _share(value: Any, like: Any) -> Any:
    """A rank's share of `value`, split as the parameter `like` is; itself where that is not split."""
    if not isinstance(like, DTensor) or not isinstance(value, torch.Tensor) or value.shape != like.shape:
        return value
    # each rank has the whole: none has to send it
    on_device = value.to(like.to_local().device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)


def _put_together(value: Any, *, keep: bool) -> Any:
    if isinstance(value, DTensor):
        full = value.full_tensor()
        return full.cpu() if keep else None
    if isinstance(value, dict):
        return {key: _put_together(one, keep=keep) for key, one in value.items()}
    if isinstance(value, list):
        return [_put_together(one, keep=keep) for one in value]
    return value
