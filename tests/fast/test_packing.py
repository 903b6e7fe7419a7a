"""Whichever way `choose` takes, rows in a batch give the loss and gradients of each row by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from ftkit.data import Encoded
from ftkit.data.batches import PackedCollator, PaddedCollator
from ftkit.fast.logprobs import choose
from ftkit.train.objectives.likelihood import negative_log_likelihood

WINDOW = 4
"""Of the models with a sliding window: shorter than most of the rows."""
SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SLIDING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "qwen2 sliding": Qwen2Config(**SMALL, use_sliding_window=True, **SLIDING),
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "gemma": GemmaConfig(**SMALL, head_dim=8),
    "gemma2": Gemma2Config(
        **SMALL, **SLIDING, head_dim=8, final_logit_softcapping=3.0, attn_logit_softcapping=2.0
    ),
    "gemma3": Gemma3TextConfig(**SMALL, **SLIDING, head_dim=8),
    "phi3": Phi3Config(**SMALL),
    "phi3 sliding": Phi3Config(**SMALL, sliding_window=WINDOW),
    "gpt2": GPT2Config(
        vocab_size=97,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        attn_pdrop=0,
        embd_pdrop=0,
        resid_pdrop=0,
    ),
    "mistral": MistralConfig(**SMALL, sliding_window=WINDOW),
    "smollm3": SmolLM3Config(**SMALL),
    "olmo2": Olmo2Config(**SMALL),
}
MUST_PACK = set(CONFIGS)


def rows() -> list[Encoded]:
    chance = np.random.default_rng(0)
    return [
        Encoded(chance.integers(3, 97, length).astype(np.int32), chance.random(length) < 0.7, number)
        for number, length in enumerate((13, 1, 9, 6))
    ]


def one_by_one(model: Any) -> torch.Tensor:
    """Log-probabilities of the trained tokens, by the model's own forward on each row."""
    found = []
    for row in rows():
        ids = torch.from_numpy(row.ids.astype(np.int64))
        logprobs = model(input_ids=ids[None]).logits[0, :-1].float().log_softmax(-1)
        trained = torch.from_numpy(row.mask[1:])
        found.append(logprobs.gather(1, ids[1:, None])[:, 0][trained])
    return torch.cat(found)


def gradients(model: Any, logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    negative_log_likelihood(logprobs, len(logprobs)).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_gives_what_its_rows_give(name: str, fast: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32)
    for weight in model.parameters():  # larger than at the start of training, so that all parts matter
        weight.data.mul_(3) if weight.dim() > 1 else None
    model.set_attn_implementation("eager")
    expected = one_by_one(model)
    expected_gradients = gradients(model, expected)
    way = choose(model, fast=fast)
    if fast and name in MUST_PACK:
        assert way.packed, way.reason
    if not way.packed:
        assert way.reason
        model.set_attn_implementation("sdpa" if name != "gemma2" else "eager")
    collator = PackedCollator() if way.packed else PaddedCollator(0)
    found = way(model, collator(rows()))
    assert len(found) == sum(int(row.mask[1:].sum()) for row in rows())
    order = torch.arange(len(found))
    torch.testing.assert_close(found[order], expected, atol=2e-5, rtol=2e-5)
    for parameter, gradient in gradients(model, found).items():
        torch.testing.assert_close(gradient, expected_gradients[parameter], atol=2e-5, rtol=1e-4)
