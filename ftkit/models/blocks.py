"""The decoder layers of a model, and new ones between them that begin by changing nothing (LLaMA Pro).

A new layer is a copy of the one before it whose last projections are zero (Wu et al. 2024, arXiv:2401.02415),
so that it adds nothing to what passes it. That this is so is tried on the model itself.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from ftkit.errors import ModelError

_LAST = ("o_proj", "out_proj", "down_proj", "c_proj", "fc2", "w2", "wo", "dense", "dense_4h_to_h")
"""What the projections back into the residual stream are called."""


def find(model: Any) -> tuple[torch.nn.ModuleList, str]:
    """The decoder layers of a transformers model, and their path.

    Raises
    ------
    ModelError
        Where there are none to be found.
    """
    count = model.config.get_text_config().num_hidden_layers
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module, path
    raise ModelError(f"The decoder layers of {type(model).__name__} are not found.", "Choose method lora.")


def expand(model: Any, count: int) -> list[torch.nn.Module]:
    """Put `count` new layers between the model's own, evenly; the new ones.

    Raises
    ------
    ModelError
        Where the model has too few layers, or new ones would change it.
    """
    layers, path = find(model)
    config = model.config.get_text_config()
    if count > len(layers):
        raise ModelError(
            f"method.expand_layers is {count}, and the model has {len(layers)} layers.",
            "Add no more than there are.",
        )
    before = _trial(model)
    after = {round((number + 1) * len(layers) / count) - 1 for number in range(count)}
    made, order, sources = [], [], []
    for number, layer in enumerate(layers):
        order.append(layer)
        sources.append(number)
        if number in after:
            # of one configuration with the rest: it says which attention is used
            new = copy.deepcopy(layer, {id(one): one for one in (model.config, config)})
            _silence(new)
            order.append(new)
            sources.append(number)
            made.append(new)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, torch.nn.ModuleList(order))
    _tell(config, order, sources)
    if not torch.allclose(_trial(model), before, atol=1e-5, rtol=1e-3):
        raise ModelError(
            f"New layers would change {type(model).__name__}: its layers end in a way of their own.",
            "Leave method.expand_layers out.",
        )
    return made


def _silence(layer: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if any(part in _LAST for part in name.split(".")):
                parameter.zero_()


def _tell(config: Any, layers: list[torch.nn.Module], sources: list[int]) -> None:
    """Every layer learns its number; what the configuration says of each layer is said of new ones, too."""
    before = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == before and name != "architectures":
            setattr(config, name, [value[number] for number in sources])
    config.num_hidden_layers = len(layers)
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number  # type: ignore[assignment]


@torch.no_grad()
def _trial(model: Any) -> torch.Tensor:
    embedding = model.get_input_embeddings().weight
    ids = torch.arange(1, 12, device=embedding.device)[None] * 37 % len(embedding)
    was_training = model.training
    model.eval()
    try:
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits.float()
        return logits
    finally:
        model.train(was_training)
