"""Every method on every architecture: the loss falls, it saves, loads again, and gives the same logits.

Tiny random models learn two rows by heart. A cell of the printed table is the share of the loss that is left;
`no` where a method cannot be had, which must then be said before anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ftkit.data.batches import PackedCollator, PaddedCollator
from ftkit.data.encoded import Encoded
from ftkit.errors import ModelError
from ftkit.fast.logprobs import LogProbs, choose
from ftkit.models import (
    LoadedModel,
    apply_method,
    base_model,
    load_adapter,
    load_model,
    save_adapter,
)
from ftkit.recipe import Adapter, Compute, Method, Model, Recipe

from . import architectures

METHODS: dict[str, dict[str, Any]] = {
    "full": {"type": "full"},
    "freeze": {"type": "freeze", "last_layers": 1},
    "expand": {"type": "freeze", "expand_layers": 1},
    "lora": {"rank": 4},
    "rslora": {"rank": 4, "use_rslora": True, "init": "gaussian"},
    "dora": {"rank": 4, "use_dora": True},
    "pissa": {"rank": 4, "init": "pissa"},
    "olora": {"rank": 4, "init": "olora"},
    "eva": {"rank": 4, "init": "eva"},
    "tokens": {"rank": 4, "trainable_tokens": ("<|im_end|>",), "bias": "all"},
    "adalora": {"type": "adalora", "rank": 2, "first_rank": 4},
    "oft": {"type": "oft", "block_size": 8},
    "boft": {"type": "boft"},
    "ia3": {"type": "ia3"},
    "vera": {"type": "vera", "rank": 32},
    "prompt": {"type": "prompt_tuning", "tokens": 4},
    "prefix": {"type": "prefix_tuning", "tokens": 4},
}
CANNOT: dict[str, set[str]] = {
    "gpt2": {"oft", "boft"},  # not on its Conv1D layers
    "qwen3_moe": {"dora", "eva"},  # not on experts laid into one block
}
"""What PEFT cannot do on an architecture."""
RATE = 3e-3
STEPS = 6


def rows() -> list[Encoded]:
    chance = np.random.default_rng(3)
    return [
        Encoded(chance.integers(10, 300, length).astype(np.int32), np.ones(length, dtype=bool), number)
        for number, length in enumerate((14, 9))
    ]


def plain_scores(model: Any) -> torch.Tensor:
    """(trained tokens,) log-probabilities by the plain way, in evaluation mode."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        found = LogProbs(False, None, "")(model, PaddedCollator(0)(rows()))
    model.train(was_training)
    return found


def train(loaded: LoadedModel, method: Method) -> list[float]:
    """The loss of every step, by the way that ftkit chooses."""
    way = choose(loaded.model)
    batch = (PackedCollator() if way.packed else PaddedCollator(0))(rows())
    rate = RATE * (min(method.rate, 5.0) if isinstance(method, Adapter) else 1.0)
    trained = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0)
    loaded.model.train()
    losses = []
    for _ in range(STEPS):
        loss = -way(loaded.model, batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    way.report.undo()
    return losses


@pytest.mark.parametrize("architecture", architectures.CONFIGS)
@pytest.mark.parametrize("name", METHODS)
def test_it_trains_saves_and_loads_again(
    name: str,
    architecture: str,
    tiny_architecture: Callable[[str], Path],
    note: Callable[[str, str, str], None],
    tmp_path: Path,
) -> None:
    folder = tiny_architecture(architecture)
    method = Recipe(method=METHODS[name]).method

    def load(source: Path = folder) -> LoadedModel:
        return load_model(Model(source=str(source)), Compute(device="cpu", dtype="float32"))

    loaded = load()
    before = plain_scores(loaded.model)
    torch.manual_seed(0)
    padded = PaddedCollator(0)(rows())
    batches = [{key: padded[key] for key in ("input_ids", "attention_mask")}] * 3
    if name in CANNOT.get(architecture, set()):
        with pytest.raises(ModelError):
            apply_method(loaded, method, batches)
        note(name, architecture, "no")
        return
    apply_method(loaded, method, batches)
    losses = train(loaded, method)
    note(name, architecture, f"{losses[-1] / losses[0]:.2f}")
    assert losses[-1] < losses[0] - 0.01
    after = plain_scores(loaded.model)
    assert (after - before).abs().max() > 0.01
    saved = save_adapter(loaded, tmp_path / "saved")
    if isinstance(method, Adapter):
        again = load()
        load_adapter(again, saved)
        for one in (loaded, again):
            with base_model(one) as model:
                torch.testing.assert_close(plain_scores(model), before, atol=2e-5, rtol=1e-5)
    else:
        again = load(saved)
    torch.testing.assert_close(plain_scores(again.model), after, atol=2e-5, rtol=1e-5)
