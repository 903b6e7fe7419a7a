"""Weights of few bits: an adapter learns on them and comes back; what cannot be had is refused first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftkit.errors import ModelError, RecipeError
from ftkit.fast.logprobs import choose
from ftkit.models import (
    apply_method,
    base_model,
    estimate,
    load_adapter,
    load_model,
    precision,
    probe,
    save_adapter,
)
from ftkit.recipe import Compute, LoRA, Model, Recipe

KINDS = {"8bit": 0.02, "4bit": 0.15, "int8": 0.02}
"""How far logits may lie from those of the whole weights."""
IDS = torch.arange(5, 60)[None]


@pytest.fixture
def source(tiny_model_folder: Callable[..., Path]) -> str:
    return str(tiny_model_folder(hidden_size=128, intermediate_size=256))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_learns_on_few_bits_and_comes_back(kind: str, source: str, tmp_path: Path) -> None:
    if reason := precision.available(probe("cpu"))[kind]:
        pytest.skip(reason)

    def load(bits: str | None = kind) -> Any:
        return load_model(Model(source=source, quantization=bits), Compute(device="cpu", dtype="float32"))

    whole, loaded = logits(load(None).model), load()
    before = logits(loaded.model)
    assert (before - whole).abs().max() <= KINDS[kind] * whole.abs().max()
    apply_method(loaded, LoRA(rank=4))
    way = choose(loaded.model)
    batch = {
        "input_ids": IDS,
        "labels": IDS,
        "position_ids": torch.arange(55)[None],
        "attention_mask": torch.ones_like(IDS),
        "cu_seqlens": torch.tensor([0, 55], dtype=torch.int32),
    }
    optimizer = torch.optim.AdamW([p for p in loaded.model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = -way(loaded.model, batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        loaded.model.eval()
        logits(loaded.model)  # a pass without a gradient in between must not spoil the next with one
        loaded.model.train()
    assert losses[-1] < losses[0] - 0.1
    loaded.model.eval()
    again = load()
    load_adapter(again, save_adapter(loaded, tmp_path / "adapter"))
    torch.testing.assert_close(logits(again.model), logits(loaded.model), atol=1e-5, rtol=1e-4)
    for one in (loaded, again):
        with base_model(one) as model:
            torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-4)


def test_what_is_missing_is_refused_before_the_model_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="bitsandbytes"):
        load_model(Model(source="no/such-model", quantization="4bit"), Compute(device="cpu"))
    assert set(precision.available(probe("cpu"))) == {"float32", "bfloat16", *KINDS}


@pytest.mark.parametrize(
    ("method", "other"),
    [("full", "method 'full'"), ("freeze", "method 'freeze'"), ({"init": "pissa"}, "init")],
)
def test_few_bits_go_with_an_adapter_only(method: Any, other: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(model={"quantization": "4bit"}, method=method)
    assert "model.quantization '4bit'" in caught.value.message
    assert other in caught.value.message


def test_fewer_bits_need_less_memory() -> None:
    sizes = [
        estimate(Recipe(model={"quantization": bits})).parts["weights"] for bits in ("4bit", "8bit", None)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2
