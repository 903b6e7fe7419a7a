"""Models to begin with: families, sizes, templates, licences, and the memory that their weights take.

The facts are in `catalog.yaml`; parameters and memory are computed from a model's sizes. Any other Hub id
works as well.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ftkit.models import architecture
from ftkit.models.architecture import Architecture

_FILE = Path(__file__).with_name("catalog.yaml")
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
_BYTES = {"float32": 4.0, "bfloat16": 2.0}
_QUANTISED = {"8bit": 1.0 + 4 / 1024, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Bytes of a weight with its scales: a float32 a row of a thousand; or a byte for 64 weights, and a float32
for 256 such bytes (double quantisation, Dettmers et al. 2023, arXiv:2305.14314)."""


@dataclass(frozen=True, eq=False)
class CatalogEntry:
    """A model that people may want to start from. A fact that is not known is None.

    Attributes
    ----------
    source
        What goes into `model.source`.
    title, family, maker
        Its name, those it belongs to, who made it.
    model_type
        transformers' name of its architecture.
    kind
        causal, encoder or seq2seq.
    parameters
        In millions.
    about
        A line on what it is good for.
    licence
        The licence's name.
    gated
        Whether its makers ask you to accept terms on the Hub first (it needs an account and a token).
    template
        How it writes a conversation; None where it has no chat, or that is not known.
    context
        Tokens that it was made for.
    adapters
        Linear layers that an adapter goes on.
    config
        Its sizes under transformers' names; empty where they are left out.
    cannot
        Why ftkit does not load it; empty where it does.
    """

    source: str
    title: str
    family: str
    maker: str
    model_type: str | None
    kind: Literal["causal", "encoder", "seq2seq"]
    parameters: int | None
    about: str
    licence: str
    gated: bool
    template: str | None
    context: int | None
    adapters: tuple[str, ...]
    config: Mapping[str, Any]
    cannot: str = ""

    @property
    def memory(self) -> dict[str, float]:
        """Memory of the weights by precision, in 10^9 bytes; empty where the parameters are not known.

        Quantised only where the sizes say how much of it are words, which stay in bfloat16, and where there
        are no experts, whose weights are no linear layers.
        """
        if self.parameters is None:
            return {}
        sizes = {name: self.parameters * width / 1e3 for name, width in _BYTES.items()}
        found = _architecture(self.config)
        if found is None or self.kind != "causal" or "num_experts" in self.config:
            return sizes
        words = found.vocab_size * found.hidden_size * (1 if found.tied else 2) / 1e9
        rest = self.parameters / 1e3 - words
        return sizes | {name: rest * width + words * 2.0 for name, width in _QUANTISED.items()}


@functools.cache
def entries() -> tuple[CatalogEntry, ...]:
    """Every model: the starter, then from small to large, those of unknown size last."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    families = yaml.load(_FILE.read_text(encoding="utf-8"), Loader=loader)
    found = [_entry(family, model) for family in families for model in family["models"]]
    return tuple(sorted(found, key=_place))


def find(source: str) -> CatalogEntry | None:
    """The model of this name."""
    return next((entry for entry in entries() if entry.source == source), None)


def search(text: str, *, loadable: bool = True) -> Sequence[CatalogEntry]:
    """Models in whose facts every word of `text` is found, from small to large; all of them for no words.

    Parameters
    ----------
    loadable
        Leave out those that ftkit does not load.
    """
    words = _plain(text).split()
    return [
        entry
        for entry in entries()
        if not (loadable and entry.cannot) and all(word in _searched(entry) for word in words)
    ]


@functools.cache
def _searched(entry: CatalogEntry) -> str:
    facts = (entry.source, entry.title, entry.family, entry.maker, entry.licence, entry.about)
    return _plain(" ".join((*facts, entry.model_type or "", entry.template or "")))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _place(entry: CatalogEntry) -> tuple[bool, float, str]:
    unknown = float("inf")
    return entry.source != "starter", unknown if entry.parameters is None else entry.parameters, entry.title


def _entry(family: Mapping[str, Any], model: Mapping[str, Any]) -> CatalogEntry:
    facts = {**family, **model}
    config = _config(facts)
    found = _architecture(config)
    millions = facts.get("millions")
    if millions is None and found is not None:
        millions = round(_parameters(found, facts) / 1e6)
    return CatalogEntry(
        source=facts["source"],
        title=facts["title"],
        family=facts["family"],
        maker=facts["maker"],
        model_type=facts.get("type"),
        kind=facts.get("kind", "causal"),
        parameters=millions,
        about=facts["about"],
        licence=facts["licence"],
        gated=facts.get("gated", False),
        template=facts.get("template"),
        context=facts.get("context"),
        adapters=tuple(facts.get("adapters", ())),
        config=config,
        cannot=facts.get("cannot", ""),
    )


def _config(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes as a config.json has them."""
    if "sizes" not in facts:
        return {}
    config = dict(zip(_SIZES, facts["sizes"], strict=True))
    if config["head_dim"] is None:
        del config["head_dim"]
    if "experts" in facts:
        config |= {"num_experts": facts["experts"], "moe_intermediate_size": config["intermediate_size"]}
    return {
        "model_type": facts["type"],
        "max_position_embeddings": facts.get("context"),
        "tie_word_embeddings": facts.get("tied", False),
        **config,
    }


def _architecture(config: Mapping[str, Any]) -> Architecture | None:
    return architecture.read(config) if config else None


def _parameters(found: Architecture, facts: Mapping[str, Any]) -> int:
    """Of a decoder; a T5 has an encoder, and a decoder with a second attention, too."""
    if facts.get("kind") == "seq2seq":
        attention = sum(found.linears[name].inputs * found.linears[name].outputs for name in _ATTENTION)
        hidden, inner, layers = facts["sizes"][:3]
        return layers * (3 * attention + 4 * hidden * inner) + found.vocab_size * hidden
    if facts.get("kind") == "encoder":
        hidden, inner, layers = facts["sizes"][:3]
        return layers * (4 * hidden**2 + 2 * hidden * inner) + (found.vocab_size + facts["context"]) * hidden
    return found.parameters


_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
