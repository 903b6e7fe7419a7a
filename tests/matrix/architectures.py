"""Tiny random models of the families that people fine-tune."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
_EXPERTS = {**SIZES, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SIZES),
    "mistral": ("MistralConfig", {**SIZES, "sliding_window": 64}),
    "qwen2": ("Qwen2Config", SIZES),
    "qwen3": ("Qwen3Config", {**SIZES, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2Config", {**SIZES, "sliding_window": 64}),
    "gemma3": ("Gemma3TextConfig", {**SIZES, "sliding_window": 64}),
    "phi3": ("Phi3Config", SIZES),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "olmo2": ("Olmo2Config", SIZES),
    "qwen3_moe": ("Qwen3MoeConfig", _EXPERTS),
}
