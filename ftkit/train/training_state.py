"""What training needs beside the weights to go on exactly where it was, in one safetensors file.

Optimizer, schedule, scaler, random generators and counters are nested dicts, lists and tuples of tensors and
plain values. The tensors go into the file as they are, the structure around them as JSON in its metadata:
nothing is pickled, so that a run folder from elsewhere can be resumed without running code from it.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ftkit.train.ranks import Ranks

_NumpyState = tuple[str, "np.ndarray[Any, Any]", int, int, float]

FILE = "training_state.safetensors"


def save(state: dict[str, Any], folder: Path) -> None:
    """Write `state` to `folder`.

    Raises
    ------
    TypeError
        For a value that is neither a tensor nor plain.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = _packed(state, tensors, set())
    save_file(tensors, folder / FILE, metadata={"structure": json.dumps(structure)})


def load(folder: Path) -> dict[str, Any]:
    """What `save` wrote, tensors on the CPU; the file is read whole and closed."""
    with safe_open(folder / FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        structure = json.loads(file.metadata()["structure"])
    state = _unpacked(structure, tensors)
    assert isinstance(state, dict)
    return state


def random_state() -> dict[str, Any]:
    """Where the generators of Python, numpy and torch stand."""
    kind, keys, position, has_gauss, gauss = cast("_NumpyState", np.random.get_state(legacy=True))
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put the generators back to where `random_state` found them."""
    kind, keys, position, has_gauss, gauss = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])


def gathered_generators(ranks: Ranks) -> list[torch.Tensor]:
    """Where the generators stand that dropout draws from, on each rank; nothing of one process alone."""
    if ranks.count == 1:
        return []
    own = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else torch.get_rng_state()
    return ranks.gathered(own)


def restore_generators(states: list[torch.Tensor], ranks: Ranks, seed: int) -> None:
    """Put this rank's generator back; one that was not there before gets a seed of its own."""
    if ranks.number == 0:
        return  # `restore_random_state` did
    if ranks.number >= len(states):
        torch.manual_seed(seed + ranks.number)
    elif torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states[ranks.number])
    else:
        torch.set_rng_state(states[ranks.number])


def _packed(value: Any, tensors: dict[str, torch.Tensor], places: set[int]) -> Any:
    """`value` as JSON; what JSON does not know is an object with one key that names its kind.

    `places` are those in memory of the tensors that are there already.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        own = value.detach().cpu().contiguous()
        # A copy only of what is there already: an optimizer's state is larger than the weights.
        # Several entries of it may share one tensor, which the format refuses.
        place = own.untyped_storage().data_ptr()
        tensors[name] = own.clone() if place in places else own
        places.add(place)
        return {"tensor": name}
    if isinstance(value, np.generic):
        return _packed(value.item(), tensors, places)
    if isinstance(value, dict):
        return {
            "dict": [
                [_packed(key, tensors, places), _packed(item, tensors, places)] for key, item in value.items()
            ]
        }
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_packed(item, tensors, places) for item in value]}
    raise TypeError(f"{type(value).__name__} cannot be kept in a checkpoint")


def _unpacked(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {_unpacked(key, tensors): _unpacked(item, tensors) for key, item in inner}
    items = [_unpacked(item, tensors) for item in inner]
    return tuple(items) if kind == "tuple" else items
