"""Quick answers: the same numbers as the model's own layers, whatever the structure, adapter on or off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache

from ftkit.fast import attention, compiled
from ftkit.fast.decoding import one_linear, one_query, takes
from ftkit.fast.quick import quick_cache, quicken

from .test_packing import CONFIGS

pytestmark = pytest.mark.skipif(
    compiled.why_not() is not None, reason=f"no compiled kernels: {compiled.why_not()}"
)
CLOSE: dict[torch.dtype, dict[str, float]] = {
    torch.float32: {"atol": 2e-5, "rtol": 2e-5},
    torch.bfloat16: {"atol": 2e-2, "rtol": 2e-2},
}
TYPES = st.sampled_from([torch.float32, torch.bfloat16])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 9), st.booleans(), st.integers(0, 5), TYPES)
@torch.no_grad()
def test_a_layer_with_its_adapter_is_one_product(
    inputs: int, outputs: int, rank: int, with_bias: bool, gap: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(inputs * 71 + outputs)
    weight = torch.randn(outputs, inputs + gap, dtype=dtype)[:, :inputs]  # a view, as pieces leave it
    bias = torch.randn(outputs, dtype=dtype) if with_bias else None
    a, b = (torch.randn(rank, inputs), torch.randn(outputs, rank)) if rank else (None, None)
    x = torch.randn(1, 1, inputs, dtype=dtype)
    want = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    if a is not None and b is not None:
        want = want + 0.5 * (x.double() @ a.double().T @ b.double().T)
    got = one_linear(x, weight, bias, a, b, 0.5)
    assert got.dtype == dtype
    scale = want.abs().max().clamp(min=1)
    torch.testing.assert_close(got.double() / scale, want / scale, **CLOSE[dtype])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 90), st.sampled_from([4, 12, 64]), TYPES)
@torch.no_grad()
def test_one_query_is_attention(kv_heads: int, each: int, keys: int, size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(keys)
    query = torch.randn(1, kv_heads * each, 1, size, dtype=dtype)
    key, value = (torch.randn(1, kv_heads, keys + 7, size, dtype=dtype)[:, :, :keys] for _ in "kv")
    assert takes(query, key, value)
    want = F.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), scale=0.3, enable_gqa=True
    )
    got = one_query(query, key, value, 0.3)
    torch.testing.assert_close(got.transpose(1, 2).double(), want, **CLOSE[dtype])
    assert not takes(query.expand(2, -1, -1, -1), key, value)
    assert not takes(query, key.transpose(2, 3).contiguous().transpose(2, 3), value) or keys == 1 or size == 1


@pytest.fixture(params=list(CONFIGS))
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    made = get_peft_model(made, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weights in made.named_parameters():
            if "lora_B" in name:
                weights.normal_(0, 0.05)
    return made.eval()


@torch.no_grad()
def logits(model: Any, cache: Any, count: int = 30) -> torch.Tensor:
    """Of a prompt, then token by token."""
    ids = torch.arange(1, count + 1)[None] * 7 % 50
    parts = [model(input_ids=ids[:, :11], past_key_values=cache, use_cache=True).logits[:, -1]]
    for at in range(11, count):
        parts.append(
            model(input_ids=ids[:, at : at + 1], past_key_values=cache, use_cache=True).logits[:, -1]
        )
    return torch.cat(parts)


def test_answers_are_those_of_the_model_itself(model: Any) -> None:
    def both() -> list[torch.Tensor]:
        found = [logits(model, quick_cache(model) if served else DynamicCache(config=model.config))]
        with model.disable_adapter():
            found.append(logits(model, quick_cache(model)))
        return found

    served = 0
    own = both()
    assert not torch.allclose(own[0], own[1], atol=1e-3), "the adapter says something"
    served = quicken(model)
    assert quicken(model) == served
    for got, want in zip(both(), own, strict=True):
        torch.testing.assert_close(got, want, atol=2e-4, rtol=2e-4)
    if "GPT2" not in type(model.get_base_model()).__name__:  # its layers are no torch.nn.Linear
        assert served > 7


def test_learning_goes_on_as_it_was(model: Any) -> None:
    ids = torch.arange(1, 20)[None] % 50

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    before = gradients()
    quicken(model)
    for got, want in zip(gradients(), before, strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)


def test_what_was_learned_meanwhile_is_used(model: Any) -> None:
    quicken(model)
    first = logits(model, quick_cache(model))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.zero_()
    second = logits(model, quick_cache(model))
    with model.disable_adapter():
        torch.testing.assert_close(second, logits(model, quick_cache(model)), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(first, second, atol=1e-3)


def test_dora_is_left_to_peft() -> None:
    made = AutoModelForCausalLM.from_config(CONFIGS["llama"])
    made = get_peft_model(
        made, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=True)
    ).eval()
    own = logits(made, DynamicCache(config=made.config))
    assert quicken(made) <= 1, "the output head at most"
    torch.testing.assert_close(logits(made, quick_cache(made)), own, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_cache_grows_without_losing_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftkit.fast.quick._GROWTH", 3)
    from ftkit.fast.quick import _GrowingLayer

    layer, keys, values = _GrowingLayer(), torch.randn(1, 2, 40, 4), torch.randn(1, 2, 40, 4)
    at = 0
    for count in (5, 1, 1, 1, 1, 7, 1, 20, 1, 1, 1):
        got = layer.update(keys[:, :, at : at + count], values[:, :, at : at + count])
        at += count
        assert layer.get_seq_length() == at
        torch.testing.assert_close(got[0], keys[:, :, :at])
        torch.testing.assert_close(got[1], values[:, :, :at])


def test_attention_with_a_mask_stays_with_torch(model: Any) -> None:
    """Rows padded on the left, as evaluation has them."""
    if not getattr(model.get_base_model(), "_supports_attention_backend", False):
        pytest.skip("it has an attention of its own")
    quicken(model)
    assert model.get_base_model().config._attn_implementation in (attention.IMPLEMENTATION, "eager", "sdpa")
    alone = torch.tensor([[5, 6, 7, 8]])
    padded = torch.tensor([[0, 0, 5, 6, 7, 8]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        want = model(input_ids=alone).logits[:, -1]
        cache = quick_cache(model)
        model(
            input_ids=padded[:, :5],
            attention_mask=mask[:, :5],
            position_ids=positions[:, :5],
            past_key_values=cache,
        )
        got = model(
            input_ids=padded[:, 5:], attention_mask=mask, position_ids=positions[:, 5:], past_key_values=cache
        ).logits[:, -1]
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
