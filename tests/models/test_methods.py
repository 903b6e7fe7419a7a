"""Methods on a tiny model: what PEFT does by itself, what ftkit adds, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ftkit.errors import ModelError, RecipeError
from ftkit.models import (
    LoadedModel,
    apply_method,
    base_model,
    count_parameters,
    load_adapter,
    load_model,
    save_adapter,
)
from ftkit.models.adapters import made_for_another
from ftkit.recipe import Compute, Freeze, LoRA, Model, Recipe

IDS = torch.arange(5, 25)[None]
Load = Callable[..., LoadedModel]


@pytest.fixture
def load(tiny_model_folder: Callable[..., Path]) -> Load:
    def make(dtype: str = "float32", **model: Any) -> LoadedModel:
        source = str(tiny_model_folder(initializer_range=0.2))
        return load_model(Model(source=source, **model), Compute(device="cpu", dtype=dtype))

    return make


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def step(loaded: LoadedModel, rate: float = 0.05) -> None:
    loaded.model(IDS, labels=IDS).loss.backward()
    trained = [p for p in loaded.model.parameters() if p.requires_grad]
    torch.optim.SGD(trained, lr=rate).step()
    loaded.model.zero_grad()


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_directions_learn_as_peft_s_own_and_leave_the_model_as_it_was(load: Load, init: str) -> None:
    ours, theirs = load(), load()
    weight = ours.model.model.layers[0].self_attn.q_proj.weight
    before, base = weight.clone(), logits(ours.model)
    apply_method(ours, LoRA(rank=4, alpha=8, init=init))
    peft = get_peft_model(
        theirs.model,
        LoraConfig(
            r=4, lora_alpha=8, init_lora_weights=init, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    theirs.model = peft
    torch.testing.assert_close(logits(ours.model), base, atol=1e-4, rtol=1e-4)
    for _ in range(3):
        step(ours)
        step(theirs)
    torch.testing.assert_close(logits(ours.model), logits(peft), atol=1e-3, rtol=1e-3)
    assert (logits(peft) - base).abs().max() > 0.05
    assert torch.equal(weight, before)


def test_a_trained_bias_is_put_back_for_the_base_model(load: Load, tiny_model_folder, tmp_path: Path) -> None:
    source = Model(source=str(tiny_model_folder(attention_bias=True)))
    loaded = load_model(source, Compute(device="cpu", dtype="float32"))
    before = logits(loaded.model)
    apply_method(loaded, LoRA(rank=2, bias="all"))
    step(loaded, 0.5)
    after = logits(loaded.model)
    bias = loaded.model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.bias
    assert bias.abs().max() > 0
    with base_model(loaded) as model:
        torch.testing.assert_close(logits(model), before)
    torch.testing.assert_close(logits(loaded.model), after)
    again = load_model(source, Compute(device="cpu", dtype="float32"))
    load_adapter(again, save_adapter(loaded, tmp_path / "adapter"))
    torch.testing.assert_close(logits(again.model), after)
    with base_model(again) as model:
        torch.testing.assert_close(logits(model), before)


def test_new_tokens_begin_as_the_mean_of_their_pieces_and_are_trained(load: Load, tmp_path: Path) -> None:
    plain = load()
    pieces = plain.tokenizer("<tool>", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1
    loaded = load(new_tokens=("<tool>", "<end-tool>"))
    words = loaded.model.get_input_embeddings().weight
    assert words.shape[0] == plain.model.get_input_embeddings().weight.shape[0] + 2
    assert loaded.tokenizer("<tool>", add_special_tokens=False)["input_ids"] == [loaded.new_token_ids[0]]
    torch.testing.assert_close(words[loaded.new_token_ids[0]], words[pieces].mean(0))
    apply_method(loaded, LoRA(rank=2))
    ids = torch.tensor([[7, *loaded.new_token_ids, 9]])
    loaded.model(ids, labels=ids).loss.backward()
    torch.optim.SGD([p for p in loaded.model.parameters() if p.requires_grad], lr=1.0).step()
    folder = save_adapter(loaded, tmp_path / "adapter")
    assert (folder / "adapter_model.safetensors").stat().st_size < 60_000  # not the whole embedding
    again = load(new_tokens=("<tool>", "<end-tool>"))
    before = again.model(ids).logits
    load_adapter(again, folder)
    torch.testing.assert_close(again.model(ids).logits, loaded.model(ids).logits)
    assert not torch.allclose(again.model(ids).logits, before, atol=1e-3)


@pytest.mark.parametrize("token", ["<|im_end|>", " "])
def test_tokens_that_are_not_new_are_refused(load: Load, token: str) -> None:
    with pytest.raises(ModelError, match=r"model\.new_tokens"):
        load(new_tokens=(token,)) if token.strip() else load(new_tokens=("<a>", "<|im_start|>"))


def test_an_unknown_token_module_or_layer_is_refused_by_its_field(load: Load) -> None:
    for method, words in (
        (LoRA(trainable_tokens=("<nope>",)), "method.trainable_tokens names '<nope>'"),
        (LoRA(modules_to_save=("head",)), "method.modules_to_save names 'head'"),
        (LoRA(target_modules=("q_proj", "x_proj")), "method.target_modules names 'x_proj'"),
        (LoRA(layers_to_transform=(5,)), "no decoder layer 5"),
        (LoRA(trainable_tokens=("<|im_end|>",), modules_to_save=("lm_head",)), "share"),
        (LoRA(rank=64, init="pissa"), "method.rank 64 is more"),
        (Freeze(modules=("attn",)), "method.modules names 'attn'"),
        (Freeze(last_layers=9), "method.last_layers is 9"),
        (Freeze(expand_layers=9), "method.expand_layers is 9"),
    ):
        with pytest.raises(ModelError) as caught:
            apply_method(load(), method)
        assert words in caught.value.message


def test_an_adapter_is_gone_on_with(load: Load, tmp_path: Path) -> None:
    first = load()
    apply_method(first, LoRA(rank=4, target_modules=("q_proj",)))
    step(first)
    folder = save_adapter(first, tmp_path / "adapter")
    second = load()
    apply_method(second, LoRA(start_from=str(folder)))
    torch.testing.assert_close(logits(second.model), logits(first.model))
    assert count_parameters(second.model).trainable == count_parameters(first.model).trainable
    step(first)
    step(second)
    torch.testing.assert_close(logits(second.model), logits(first.model))
    load_adapter(third := load(), save_adapter(second, tmp_path / "second"))
    torch.testing.assert_close(logits(third.model), logits(first.model))


def test_a_new_adapter_lies_above_one_that_stays_as_it_is(load: Load, tmp_path: Path) -> None:
    first = load()
    apply_method(first, LoRA(rank=4, alpha=12, use_rslora=True, target_modules=("q_proj", "up_proj")))
    step(first)
    below = logits(first.model)
    old = save_adapter(first, tmp_path / "old")
    second = load()
    base = logits(second.model)
    torch.manual_seed(1)
    apply_method(second, LoRA(rank=3, alpha=9, target_modules=("q_proj", "v_proj"), stack_on=str(old)))
    torch.testing.assert_close(logits(second.model), below)
    held = second.model.get_base_model().model.layers[0].mlp.up_proj
    before = [held.lora_A["default"].weight.clone(), held.lora_B["default"].weight.clone()]
    step(second)
    step(second)
    assert (logits(second.model) - below).abs().max() > 0.01
    assert torch.equal(held.lora_A["default"].weight, before[0])
    assert torch.equal(held.lora_B["default"].weight, before[1])
    with base_model(second) as model:
        torch.testing.assert_close(logits(model), base)
    both, again, third = save_adapter(second, tmp_path / "both"), load(), load()
    load_adapter(again, both)
    torch.testing.assert_close(logits(again.model), logits(second.model))
    apply_method(third, LoRA(rank=2, stack_on=str(both)))
    torch.testing.assert_close(logits(third.model), logits(second.model))


def test_only_a_plain_lora_of_the_same_model_can_lie_below(load: Load, tiny_model_folder, tmp_path) -> None:
    wide = load_model(
        Model(source=str(tiny_model_folder(intermediate_size=48))), Compute(device="cpu", dtype="float32")
    )
    apply_method(wide, LoRA(rank=2))
    dora = load()
    apply_method(dora, LoRA(rank=2, use_dora=True))
    for one, words in ((wide, "another size"), (dora, "LoRA with use_dora")):
        folder = save_adapter(one, tmp_path / words)
        with pytest.raises(ModelError, match=words):
            apply_method(load(), LoRA(stack_on=str(folder)))


def test_an_adapter_that_is_not_what_the_recipe_says_is_refused(load: Load, tmp_path: Path) -> None:
    first = load()
    apply_method(first, LoRA(rank=4))
    folder = str(save_adapter(first, tmp_path / "adapter"))
    for method, words in (
        ({"type": "oft"}, "is lora, and method.type is oft"),
        ({"rank": 8}, "method.rank is 8, and the adapter in method.start_from was made with 4"),
    ):
        with pytest.raises(ModelError) as caught:
            apply_method(load(), Recipe(method={**method, "start_from": folder}).method)
        assert words in caught.value.message
    with pytest.raises(ModelError, match="holds no adapter"):
        apply_method(load(), LoRA(start_from=str(tmp_path)))


def test_an_adapter_of_another_model_is_told_of_or_refused(
    load: Load, tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    def other(**config: Any) -> str:
        made = load_model(Model(source=str(tiny_model_folder(**config))), Compute(device="cpu"))
        apply_method(made, LoRA(rank=4))
        return str(save_adapter(made, tmp_path / f"adapter-{len(config)}"))

    wider, same = other(hidden_size=64), other()
    with pytest.raises(ModelError, match="does not go on"):
        apply_method(load(), LoRA(start_from=wider))
    loaded = load()
    assert str(tiny_model_folder()) in made_for_another(loaded, same)
    own = load()
    apply_method(own, LoRA(rank=4))
    assert made_for_another(loaded, save_adapter(own, tmp_path / "own")) == ""


def test_new_layers_change_nothing_until_they_learn(load: Load) -> None:
    loaded = load()
    before = logits(loaded.model)
    apply_method(loaded, Freeze(expand_layers=2))
    assert loaded.model.config.num_hidden_layers == 4
    torch.testing.assert_close(logits(loaded.model), before)
    moving = {n.split(".")[2] for n, p in loaded.model.named_parameters() if p.requires_grad}
    assert moving == {"1", "3"}
    step(loaded)
    assert not torch.allclose(logits(loaded.model), before, atol=1e-4)


def test_what_is_trained_of_a_bfloat16_model_is_float32(load: Load, tmp_path: Path) -> None:
    loaded = load("bfloat16")
    apply_method(loaded, Freeze(last_layers=1))
    kinds = {p.requires_grad: p.dtype for p in loaded.model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    from ftkit.fast.logprobs import choose

    way = choose(loaded.model)
    batch = {
        "input_ids": IDS,
        "labels": IDS,
        "position_ids": torch.arange(20)[None],
        "cu_seqlens": torch.tensor([0, 20], dtype=torch.int32),
        "attention_mask": torch.ones_like(IDS),
    }
    optimizer = torch.optim.AdamW([p for p in loaded.model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = -way(loaded.model, batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    again = load_model(
        Model(source=str(save_adapter(loaded, tmp_path / "model"))), Compute(device="cpu", dtype="float32")
    )
    weight = loaded.model.model.layers[1].mlp.up_proj.weight
    torch.testing.assert_close(again.model.model.layers[1].mlp.up_proj.weight, weight)


@pytest.mark.parametrize(
    ("changes", "one", "other"),
    [
        ({"method": {"init": "pissa", "use_dora": True}}, "method.use_dora", "method.init"),
        (
            {"method": {"init": "olora"}, "training": {"weight_decay": 0.1}},
            "training.weight_decay",
            "method.init",
        ),
        (
            {"method": "prefix_tuning", "compute": {"gradient_checkpointing": "layers"}},
            "compute.gradient_checkpointing",
            "method 'prefix_tuning'",
        ),
        ({"method": {"type": "freeze", "last_layers": 1, "first_layers": 1}}, "last_layers", "first_layers"),
        ({"method": {"type": "adalora", "rank": 8, "first_rank": 4}}, "first_rank", "rank 8"),
        ({"method": {"type": "ia3", "feedforward_modules": ["x"]}}, "feedforward_modules", "target_modules"),
    ],
)
def test_fields_that_exclude_each_other_are_both_named(changes: dict, one: str, other: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**changes)
    assert one in caught.value.message
    assert other in caught.value.message
