"""The sizes of a decoder, read from its config.json alone: parameters, linear layers, heads, words.

It knows the shapes that nearly every open model has (Llama, Mistral, Qwen, Gemma, Phi-3, SmolLM; GPT-2, OPT
and NeoX; mixtures of experts) under the names their configurations use. Norms and biases of other kinds are
left out: they are far below the accuracy of what is estimated from these numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PLAIN_MLP = {
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "gpt_bigcode",
    "opt",
    "bloom",
    "falcon",
    "phi",
    "starcoder2",
    "codegen",
    "mpt",
}
"""Model types whose feed-forward part has two matrices rather than three (no gate)."""
_FOUR_NORMS = {"gemma2", "gemma3", "gemma3_text", "glm4"}
"""Model types that normalise what attention and feed-forward put out, too."""
_HEAD_NORMS = {"qwen3", "qwen3_moe", "gemma3", "gemma3_text", "olmo2", "olmo3"}
"""Model types that normalise queries and keys."""
_TIED_BY_DEFAULT = {
    "gpt2",
    "gpt_neo",
    "opt",
    "bloom",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma3",
    "mpt",
}


@dataclass(frozen=True)
class Linear:
    """A kind of linear layer: its size, and how many there are in one decoder layer."""

    inputs: int
    outputs: int
    count: int = 1


@dataclass(frozen=True)
class Architecture:
    """Sizes of a decoder.

    Attributes
    ----------
    layers, hidden_size, heads, vocab_size
        As in its configuration.
    tied
        Whether the output head is the embedding.
    linears
        Linear layers of one decoder layer by the last part of their name.
    positions
        Rows of a learned position embedding; 0 where positions are rotary.
    packed
        Bytes of a weight of a linear layer where the checkpoint was quantized before.
    norms
        Norms of one decoder layer that are as wide as the hidden states.
    head_norms
        Whether queries and keys are normalised.
    """

    layers: int
    hidden_size: int
    heads: int
    vocab_size: int
    tied: bool
    linears: Mapping[str, Linear]
    positions: int = 0
    packed: float | None = None
    norms: int = 2
    head_norms: bool = False

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        layer = (
            sum(one.inputs * one.outputs * one.count for one in self.linears.values()) + 2 * self.hidden_size
        )
        words = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return self.layers * layer + words + (self.positions + 1) * self.hidden_size

    @property
    def key_width(self) -> int:
        """Width of the keys (and of the values) of one layer: heads times their size."""
        if "k_proj" in self.linears:
            return self.linears["k_proj"].outputs
        if "qkv_proj" in self.linears:
            return (self.linears["qkv_proj"].outputs - self.linears["o_proj"].inputs) // 2
        return self.hidden_size

    @property
    def query_width(self) -> int:
        """Width of the queries of one layer, and of what its attention puts out."""
        out = self.linears.get("o_proj") or self.linears.get("attn.c_proj")
        return out.inputs if out else self.hidden_size

    @property
    def inner_width(self) -> int:
        """Width within the feed-forward of one layer, of two experts where there are several."""
        down = self.linears.get("down_proj") or self.linears.get("c_proj")
        return down.inputs * min(down.count, 2) if down else 4 * self.hidden_size

    @property
    def gated(self) -> bool:
        """Whether the feed-forward has a gate."""
        return "gate_proj" in self.linears or "gate_up_proj" in self.linears

    @property
    def input_width(self) -> int:
        """Inputs of one layer's linear layers, summed."""
        return sum(one.inputs * min(one.count, 2) for one in self.linears.values())

    @property
    def width(self) -> int:
        """Inputs and outputs of one layer's linear layers, summed: about what a token leaves behind."""
        return sum((one.inputs + one.outputs) * min(one.count, 2) for one in self.linears.values())


def read(config: Mapping[str, Any]) -> Architecture | None:
    """The architecture of a config.json; None where it does not say what a decoder's must."""
    inner = config.get("text_config")
    if isinstance(inner, Mapping):
        config = {**inner, "tie_word_embeddings": _tied(config, inner)}
    kind = str(config.get("model_type", ""))
    hidden = _first(config, "hidden_size", "n_embd", "d_model")
    layers = _first(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    heads = _first(config, "num_attention_heads", "n_head", "num_heads", "n_heads")
    vocabulary = _first(config, "vocab_size")
    if not (hidden and layers and heads and vocabulary):
        return None
    groups = _first(config, "num_key_value_heads") or heads
    size = _first(config, "head_dim") or hidden // heads
    inner_size = (
        _first(config, "intermediate_size", "n_inner", "ffn_dim", "moe_intermediate_size") or 4 * hidden
    )
    experts = _first(config, "num_local_experts", "num_experts", "n_routed_experts")
    return Architecture(
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        vocab_size=vocabulary,
        tied=bool(config.get("tie_word_embeddings", kind in _TIED_BY_DEFAULT or "gpt" in kind)),
        linears=_linears(kind, hidden, heads * size, groups * size, inner_size, experts, config),
        positions=_positions(kind, config),
        norms=4 if kind in _FOUR_NORMS else 2,
        head_norms=kind in _HEAD_NORMS,
    )


def _linears(
    kind: str, hidden: int, queries: int, keys: int, inner: int, experts: int, config: Mapping[str, Any]
) -> dict[str, Linear]:
    if kind == "gpt2":
        # Both projections back to the hidden size are called c_proj; they are counted as two kinds.
        return {
            "c_attn": Linear(hidden, 3 * hidden),
            "attn.c_proj": Linear(hidden, hidden),
            "c_fc": Linear(hidden, inner),
            "c_proj": Linear(inner, hidden),
        }
    linears = {
        "q_proj": Linear(hidden, queries),
        "k_proj": Linear(hidden, keys),
        "v_proj": Linear(hidden, keys),
        "o_proj": Linear(queries, hidden),
    }
    if kind.startswith("phi3"):
        fused = {"qkv_proj": Linear(hidden, queries + 2 * keys), "o_proj": Linear(queries, hidden)}
        return {**fused, "gate_up_proj": Linear(hidden, 2 * inner), "down_proj": Linear(inner, hidden)}
    if kind in _PLAIN_MLP:
        return {**linears, "up_proj": Linear(hidden, inner), "down_proj": Linear(inner, hidden)}
    if experts:
        inner = _first(config, "moe_intermediate_size") or inner
    count = experts or 1
    return {
        **linears,
        "gate_proj": Linear(hidden, inner, count),
        "up_proj": Linear(hidden, inner, count),
        "down_proj": Linear(inner, hidden, count),
    }


def _tied(config: Mapping[str, Any], inner: Mapping[str, Any]) -> bool:
    default = str(config.get("model_type", "")) in _TIED_BY_DEFAULT
    return bool(config.get("tie_word_embeddings", inner.get("tie_word_embeddings", default)))


def _first(config: Mapping[str, Any], *names: str) -> int:
    """The first of these fields that is a number above zero; 0 where none is."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return 0


def _positions(kind: str, config: Mapping[str, Any]) -> int:
    return _first(config, "n_positions", "max_position_embeddings") if kind in {"gpt2", "opt"} else 0
