"""Weights of few bits: an adapter learns on them and comes back; what cannot be had is refused first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

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
from ftkit.models.device import Device
from ftkit.recipe import Compute, FullFineTuning, LoRA, Model, Recipe, extras
from ftkit.train.preparing import check_machine

KINDS = {"8bit": 0.02, "4bit": 0.15, "int8": 0.02, "hqq8": 0.02, "hqq4": 0.15, "hqq3": 0.3, "hqq2": 0.6}
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
    torch.manual_seed(0)
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
    for _ in range(12):
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


@pytest.mark.parametrize(
    ("kind", "words"), [("4bit", "bitsandbytes"), ("hqq4", r"ftkit\[hqq\]"), ("fp8", "computes in fp8")]
)
def test_what_is_missing_is_refused_before_the_model_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=words):
        load_model(Model(source="no/such-model", quantization=kind), Compute(device="cpu"))
    said = estimate(Recipe(model={"quantization": kind}, compute={"device": "cpu"}))
    assert said.verdict == "unknown"
    assert kind in said.reason


def test_every_choice_of_the_recipe_is_said_to_be_there_or_why_not() -> None:
    choices = {*get_args(Compute.model_fields["dtype"].annotation)} - {"auto"}
    choices |= {*get_args(get_args(Model.model_fields["quantization"].annotation)[0])}
    assert set(precision.available(probe("cpu"))) == choices


def test_float16_is_for_gpus() -> None:
    with pytest.raises(ModelError, match=r"compute\.dtype 'float16' needs a GPU"):
        load_model(Model(source="no/such-model"), Compute(device="cpu", dtype="float16"))
    gpu = Device("cuda", "a GPU", 1, False, 16.0, 16.0)
    assert precision.available(gpu)["float16"] == ""
    precision.check(Model(), Compute(dtype="float16"), gpu)


def test_scaled_gradients_in_float16_are_those_of_float32(source: str) -> None:
    batch = {"input_ids": IDS, "labels": IDS, "attention_mask": torch.ones_like(IDS)}
    batch |= {"position_ids": torch.arange(55)[None], "cu_seqlens": torch.tensor([0, 55], dtype=torch.int32)}
    found = []
    for half in (False, True):
        loaded = load_model(Model(source=source), Compute(device="cpu", dtype="float32"))
        if half:  # what a GPU would load
            loaded.model.half()
            loaded.dtype = "float16"
        torch.manual_seed(0)
        apply_method(loaded, LoRA(rank=4, init="gaussian", modules_to_save=("norm",)))
        trained = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
        assert {p.dtype for p in trained.values()} == {torch.float32}
        with torch.no_grad():
            for name, parameter in trained.items():
                if "lora_B" in name:
                    parameter.copy_(torch.linspace(-0.02, 0.02, parameter.numel()).view_as(parameter))
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
        optimizer = torch.optim.SGD(trained.values(), lr=0.0)
        scaler.scale(-choose(loaded.model)(loaded.model, batch).mean()).backward()
        scaler.unscale_(optimizer)
        found.append({name: p.grad for name, p in trained.items()})
    for name, grad in found[0].items():
        assert (found[1][name] - grad).norm() <= 0.05 * grad.norm(), name


PACKED = {
    "gptq": ({"quant_method": "gptq", "bits": 4}, "GPTQ (4 bits)", "gptqmodel and optimum"),
    "awq": ({"quant_method": "awq", "bits": 4}, "AWQ (4 bits)", "gptqmodel"),
    "bnb": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes (4 bits)", "bitsandbytes"),
    "hqq": ({"quant_method": "hqq"}, "HQQ", "does not read"),
}


@pytest.mark.parametrize("kind", PACKED)
def test_packed_weights_are_recognised_and_what_they_need_is_named(
    kind: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, name, needs = PACKED[kind]
    folder = packed_copy(source, tmp_path / "model", said)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ModelError) as caught:
        load_model(Model(source=str(folder)), Compute(device="cpu"))
    assert name in caught.value.message
    assert needs in caught.value.message
    assert name in estimate(Recipe(model=str(folder))).reason


def test_packed_weights_are_not_packed_again(source: str, tmp_path: Path) -> None:
    folder = packed_copy(source, tmp_path / "model", {"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match=r"model\.quantization '8bit' does not go with"):
        load_model(Model(source=str(folder), quantization="8bit"), Compute(device="cpu"))


def packed_copy(source: str, folder: Path, said: dict[str, Any]) -> Path:
    """A model's folder whose config.json says that its weights are packed."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": said}))
    return folder


@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_a_checkpoint_of_bitsandbytes_is_trained_on_as_it_is(kind: str, source: str, tmp_path: Path) -> None:
    if reason := precision.available(probe("cpu"))[kind]:
        pytest.skip(reason)
    compute = Compute(device="cpu", dtype="float32")
    first = load_model(Model(source=source, quantization=kind), compute)
    first.model.save_pretrained(tmp_path / "model")
    first.tokenizer.save_pretrained(tmp_path / "model")
    loaded = load_model(Model(source=str(tmp_path / "model")), compute)
    assert loaded.quantization == f"bitsandbytes ({kind[0]} bits)"
    torch.testing.assert_close(logits(loaded.model), logits(first.model))
    with pytest.raises(ModelError, match="in few bits"):
        apply_method(loaded, FullFineTuning())
    torch.manual_seed(0)
    apply_method(loaded, LoRA(rank=4))
    optimizer = torch.optim.AdamW([p for p in loaded.model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        loss = loaded.model(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind", ["4bit", "int8", "hqq2"])
def test_loftq_begins_nearer_to_the_whole_model(kind: str, source: str, tmp_path: Path) -> None:
    if reason := precision.available(probe("cpu"))[kind]:
        pytest.skip(reason)
    compute = Compute(device="cpu", dtype="float32")
    whole = logits(load_model(Model(source=source), compute).model)

    def load() -> Any:
        return load_model(Model(source=source, quantization=kind), compute)

    loaded = load()
    before = logits(loaded.model)
    apply_method(loaded, LoRA(rank=32, alpha=8, init="loftq"))
    assert (logits(loaded.model) - whole).norm() < 0.8 * (before - whole).norm()
    with base_model(loaded) as model:
        torch.testing.assert_close(logits(model), before)
    again = load()
    load_adapter(again, save_adapter(loaded, tmp_path / "adapter"))
    torch.testing.assert_close(logits(again.model), logits(loaded.model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "other"),
    [("full", "method 'full'"), ("freeze", "method 'freeze'"), ({"init": "pissa"}, "init")],
)
def test_few_bits_go_with_an_adapter_only(method: Any, other: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(model={"quantization": "4bit"}, method=method)
    assert "model.quantization '4bit'" in caught.value.message
    assert other in caught.value.message


@pytest.mark.parametrize(
    ("kind", "method", "other"),
    [
        ("hqq4", "ia3", "method 'ia3'"),
        ("hqq8", "adalora", "method 'adalora'"),
        ("8bit", {"use_dora": True}, "method.use_dora"),
        (None, {"init": "loftq"}, "method.init 'loftq'"),
    ],
)
def test_what_the_libraries_cannot_do_together_is_refused(kind: str | None, method: Any, other: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(model={"quantization": kind}, method=method)
    assert other in caught.value.message
    assert "model.quantization" in caught.value.message


@pytest.mark.parametrize(("kind", "method"), [("4bit", "ia3"), ("8bit", "ia3"), ("8bit", "adalora")])
def test_adapters_whose_layers_put_out_float32_do_not_go_with_bfloat16(
    kind: str, method: str, source: str
) -> None:
    if reason := precision.available(probe("cpu"))[kind]:
        pytest.skip(reason)
    compute = {"device": "cpu", "dtype": "bfloat16"}
    recipe = Recipe(model={"source": source, "quantization": kind}, method=method, compute=compute)
    with pytest.raises(ModelError, match=r"compute\.dtype 'float32'"):  # before anything is loaded
        check_machine(recipe)
    with pytest.raises(ModelError, match=r"compute\.dtype 'float32'"):
        apply_method(load_model(recipe.model, recipe.compute), recipe.method)
    check_machine(recipe.replace({"compute.dtype": "float32"}))


def test_fewer_bits_need_less_memory() -> None:
    sizes = [
        estimate(Recipe(model={"quantization": bits})).parts["weights"] for bits in ("4bit", "8bit", None)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2
