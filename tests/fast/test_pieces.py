"""The fast pieces in whole models: same numbers, PEFT's modules as they were, each off by itself."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ftkit.fast import allocator, compiled, pieces
from ftkit.fast.logprobs import IGNORED, LogProbs, choose
from ftkit.fast.lora import Group
from ftkit.recipe import Fast

from .test_packing import CONFIGS as ALL_CONFIGS

CONFIGS = {name: ALL_CONFIGS[name] for name in ("llama", "qwen2", "gemma3", "phi3", "olmo2")}


def adapted(name: str = "llama", dtype: torch.dtype = torch.float32, **lora: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=dtype)
    model = get_peft_model(model, LoraConfig(**{"r": 3, "target_modules": "all-linear", **lora}))
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def batch(*lengths: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    rows = [torch.randint(1, 97, (n,)) for n in lengths]
    ids = torch.cat(rows)[None]
    starts = torch.tensor([0, *lengths]).cumsum(0)
    labels = ids.clone()
    labels[0, starts[:-1]] = IGNORED
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "cu_seqlens": starts.int()}


def slopes(model: Any, logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (logprobs * torch.linspace(0.5, 1.5, len(logprobs)).to(logprobs)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


ONLY_PACKED = Fast.of(False).model_copy(update={"attention": True})
LENGTHS = (9, 1, 8, 14)


@pytest.mark.parametrize("name", CONFIGS)
def test_adapted_models_learn_the_same_with_and_without_the_pieces(name: str) -> None:
    plain, fast = adapted(name), adapted(name)
    expected = choose(plain, fast=ONLY_PACKED)(plain, batch(*LENGTHS))
    way = choose(fast)
    used = way.report.used
    assert used["lora"]
    assert used["mlp"] == 2
    assert way.packed
    found = way(fast, batch(*LENGTHS))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    wanted, got = slopes(plain, expected), slopes(fast, found)
    assert set(got) == set(wanted)
    for parameter, slope in wanted.items():
        assert (got[parameter] - slope).norm() <= 1e-4 * slope.norm(), parameter


@pytest.mark.parametrize("recompute", ["attention", "mlp", "layers"])
def test_what_is_made_again_gives_the_same_gradients(recompute: str) -> None:
    grads = []
    for level in ("off", recompute):
        model = adapted()
        way = choose(model, recompute=level)
        if level == "layers":
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        grads.append(slopes(model, way(model, batch(*LENGTHS))))
    for parameter, slope in grads[0].items():
        torch.testing.assert_close(grads[1][parameter], slope, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("piece", list(Fast.model_fields))
def test_each_piece_can_be_switched_off_alone(piece: str) -> None:
    plain, fast = adapted(), adapted()
    way = choose(fast, fast=Fast(**{piece: False}))
    assert not way.report.used[piece]
    rows = batch(*LENGTHS)
    if piece == "attention":
        assert not way.packed
        rows = {"input_ids": rows["input_ids"][:, :9], "labels": rows["labels"][:, :9]}
        rows["attention_mask"] = torch.ones_like(rows["input_ids"])
        expected = LogProbs(False, None, "")(plain, rows)
    else:
        expected = choose(plain, fast=ONLY_PACKED)(plain, rows)
    torch.testing.assert_close(way(fast, rows), expected, atol=1e-5, rtol=1e-5)


def test_switched_off_and_merged_adapters_keep_their_meaning() -> None:
    plain, fast = adapted(), adapted()
    choose(fast)
    ids = batch(11)["input_ids"]
    for act in (lambda model: model.disable_adapter(), lambda model: torch.no_grad()):
        with act(plain), act(fast):
            torch.testing.assert_close(fast(input_ids=ids).logits, plain(input_ids=ids).logits)
    for model in (plain, fast):
        model.merge_adapter()
    torch.testing.assert_close(fast(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    for model in (plain, fast):
        model.unmerge_adapter()
    torch.testing.assert_close(fast(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


def test_the_adapter_follows_the_optimizer_and_saves_as_ever(tmp_path: Any) -> None:
    plain, fast = adapted(), adapted()
    choose(fast)
    ids = batch(11)["input_ids"]
    for model in (plain, fast):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
        model.save_pretrained(tmp_path / str(model is fast))
    torch.testing.assert_close(fast(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    from safetensors.torch import load_file

    one, other = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("False", "True"))
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("lora", "word"),
    [({"use_dora": True}, "variant"), ({"lora_dropout": 0.5}, "dropout")],
    ids=["dora", "dropout"],
)
def test_what_lora_pieces_cannot_do_is_left_to_peft_and_said(lora: dict[str, Any], word: str) -> None:
    model = adapted(**lora)
    way = choose(model)
    assert way.packed
    assert not way.report.used["lora"]
    assert word in way.describe()


def test_a_model_that_is_trained_whole_keeps_its_weights() -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"], dtype=torch.float32)
    before = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    way = choose(model)
    assert way.packed
    assert "their weights are trained" in way.describe()
    assert before == {name: weight.data_ptr() for name, weight in model.named_parameters()}


def test_without_a_compiler_the_rest_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "")
    compiled._library.cache_clear()
    try:
        plain, fast = adapted(), adapted()
        way = choose(fast)
        assert "no C++ compiler" in way.describe()
        assert way.report.used["lora"]
        assert not way.report.used["norms"]
        expected = choose(plain, fast=ONLY_PACKED)(plain, batch(*LENGTHS))
        torch.testing.assert_close(way(fast, batch(*LENGTHS)), expected, atol=1e-5, rtol=1e-5)
    finally:
        monkeypatch.undo()
        compiled._library.cache_clear()
        compiled.why_not()  # found again here, where nothing is out of the ordinary, for all later tests


@pytest.mark.skipif(compiled.why_not() is not None, reason=f"no compiled kernels: {compiled.why_not()}")
def test_a_c_compiler_named_as_the_one_for_cpp_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Some libraries set CXX to gcc, which links no C++ library."""
    monkeypatch.setenv("CXX", "gcc")
    monkeypatch.setenv("FTKIT_CACHE", str(tmp_path))
    compiled._library.cache_clear()
    try:
        assert compiled.why_not() is None
    finally:
        monkeypatch.undo()
        compiled._library.cache_clear()
        compiled.why_not()


def test_a_piece_that_computes_something_else_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted()
    layer = model.get_base_model().model.layers[0].mlp
    own = layer.forward
    layer.forward = lambda x: own(x) * 1.5
    vars(layer)["forward"] = layer.forward
    report = pieces.install(model, Fast())
    assert report.used["mlp"] == 1
    assert "computes something else" in report.skipped["mlp"]


def test_low_precision_keeps_updates_smaller_than_its_grid() -> None:
    """A small update vanishes when it is added to a rounded output; summed before rounding it counts."""
    from ftkit.fast.lora import Group, Linear, grouped_linear

    torch.manual_seed(0)
    x = torch.randn(400, 64, dtype=torch.bfloat16)
    weight = torch.randn(64, 64, dtype=torch.bfloat16)
    a, b = torch.randn(4, 64) / 8, torch.full((64, 4), 2e-3)
    exact = x.double() @ weight.double().T
    update = x.double() @ a.double().T @ b.double().T
    found = grouped_linear(x, Group([Linear(weight.clone(), None, a, b, 1.0)])).double() - exact
    plain = ((x @ weight.T) + (x @ a.bfloat16().T @ b.bfloat16().T)).double() - exact
    share = [float((error * update).sum() / update.square().sum()) for error in (found, plain)]
    assert share[0] == pytest.approx(1, abs=0.05)
    assert share[1] < 0.97


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_is_held_once(name: str) -> None:
    model = adapted(name)
    choose(model)
    own = {id(parameter) for parameter in model.parameters()}
    held = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    groups = [one for one in gc.get_objects() if isinstance(one, Group)]
    groups = [group for group in groups if id(group.layers[0].weight) in own]
    assert groups
    assert {group.extended.untyped_storage().data_ptr() for group in groups} <= held


@pytest.mark.skipif(allocator.mapped_files() is None, reason="the system does not tell what is mapped")
def test_a_large_weight_is_copied_only_where_it_lies_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(allocator, "APART_FROM", 1024)
    adapted().unload().save_pretrained(tmp_path)

    def place(dtype: torch.dtype) -> tuple[int, int]:
        """Of the embedding, before and after the pieces are put in."""
        model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
        model = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear"))
        words = model.get_input_embeddings().weight
        assert words.nbytes >= 1024
        before = words.data_ptr()
        choose(model)
        return before, words.data_ptr()

    in_the_file, moved = place(torch.float32)
    assert in_the_file != moved
    made, stayed = place(torch.bfloat16)
    assert made == stayed
