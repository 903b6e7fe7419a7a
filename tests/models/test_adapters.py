"""Methods on a tiny model: what becomes trainable, what is saved, and the base model beneath."""

from __future__ import annotations

import json

import pytest
import torch

from ftkit.errors import ModelError
from ftkit.models import (
    apply_method,
    base_model,
    count_parameters,
    load_adapter,
    load_model,
    save_adapter,
)
from ftkit.recipe import Compute, FullFineTuning, LoRA, Model

IDS = torch.arange(12)[None]


@pytest.fixture
def load(tiny_model_folder):
    def make(dtype="float32", **options):
        return load_model(
            Model(source=str(tiny_model_folder())), Compute(device="cpu", dtype=dtype), **options
        )

    return make


def _disturb(loaded):
    """Make the adapter do something: its B matrices begin at zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


def _logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_lora_trains_the_adapter_alone(load):
    loaded = load()
    apply_method(loaded, LoRA(rank=4))
    trained = [name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert loaded.method == "lora"
    # Seven linear layers of 2 layers, rank 4.
    sizes = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32)]
    assert count_parameters(loaded.model).trainable == 2 * 4 * sum(a + b for a, b in sizes)


def test_the_methods_fields_reach_the_adapter(load):
    loaded = load()
    apply_method(loaded, LoRA(rank=4, alpha=16, target_modules=("q_proj",), use_rslora=True, use_dora=True))
    settings = loaded.model.peft_config["default"]
    assert (settings.r, settings.lora_alpha) == (4, 16)
    assert settings.target_modules == {"q_proj"}
    assert settings.use_rslora
    assert settings.use_dora
    assert loaded.model.get_base_model().model.layers[0].self_attn.q_proj.scaling["default"] == 16 / 4**0.5


def test_unknown_layers_are_refused_with_the_known_ones(load):
    with pytest.raises(ModelError) as caught:
        apply_method(load(), LoRA(target_modules=("query",)))
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in caught.value.advice


def test_full_fine_tuning_trains_everything_in_float32(load):
    loaded = load("bfloat16")
    apply_method(loaded, FullFineTuning())
    assert loaded.dtype == "float32"
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    counted = count_parameters(loaded.model)
    assert counted.trainable == counted.total
    with pytest.raises(ModelError, match="no longer in memory"), base_model(loaded):
        pass


def test_a_second_method_is_refused(load):
    loaded = load()
    apply_method(loaded, LoRA())
    with pytest.raises(ModelError, match="already set up for lora"):
        apply_method(loaded, LoRA())


def test_the_base_model_is_there_beneath_the_adapter(load):
    loaded = load()
    before = _logits(loaded.model)
    with base_model(loaded) as model:
        assert model is loaded.model
    apply_method(loaded, LoRA())
    _disturb(loaded)
    adapted = _logits(loaded.model)
    assert not torch.allclose(adapted, before, atol=1e-3)
    with base_model(loaded) as model:
        torch.testing.assert_close(_logits(model), before)
    torch.testing.assert_close(_logits(loaded.model), adapted)
    assert count_parameters(loaded.model).trainable > 0


def test_an_adapter_saved_and_loaded_is_the_same(load, tmp_path):
    loaded = load()
    apply_method(loaded, LoRA(rank=4))
    _disturb(loaded)
    folder = save_adapter(loaded, tmp_path / "run" / "adapter")
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]
    again = load(adapter=folder)
    torch.testing.assert_close(_logits(again.model), _logits(loaded.model))
    assert again.method == "lora"
    assert count_parameters(again.model).trainable == 0
    named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(loaded.source.path)


def test_a_fully_trained_model_is_saved_whole(load, tmp_path):
    loaded = load()
    apply_method(loaded, FullFineTuning())
    with torch.no_grad():
        loaded.model.model.layers[0].mlp.up_proj.weight.add_(0.1)
    folder = save_adapter(loaded, tmp_path / "model")
    again = load_model(Model(source=str(folder)), Compute(device="cpu", dtype="float32"))
    torch.testing.assert_close(_logits(again.model), _logits(loaded.model))
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template


def test_a_folder_without_an_adapter_is_refused(load, tmp_path):
    with pytest.raises(ModelError, match="holds no adapter"):
        load_adapter(load(), tmp_path)


def test_an_adapter_of_another_model_is_refused(load, tiny_model_folder, tmp_path):
    other = load_model(Model(source=str(tiny_model_folder(hidden_size=64))), Compute(device="cpu"))
    apply_method(other, LoRA(rank=4))
    folder = save_adapter(other, tmp_path / "adapter")
    with pytest.raises(ModelError, match="does not go on"):
        load(adapter=folder)
