"""The catalogue's facts, held to transformers' own classes; search and memory."""

from __future__ import annotations

import difflib
from typing import Any

import pytest

from ftkit.models import catalog
from ftkit.models.catalog import CatalogEntry
from ftkit.recipe import Model
from ftkit.recipe.schema import TEMPLATES

FAMILIES = set(
    """SmolLM|Llama 1|Llama 2|Llama 3|Llama 4|Mistral|Mixtral|Ministral|Qwen 1.5|Qwen 2|Qwen 2.5|Qwen 3|
    Qwen 3.5|Gemma 1|Gemma 2|Gemma 3|Gemma 4|Phi 2|Phi 3|Phi 4|DeepSeek|GLM|InternLM|Yi|Baichuan|OLMo|
    Falcon|Granite|GPT-2|gpt-oss|Command|BLOOM|T5|BERT""".replace("\n    ", "").split("|")
)
WITH_SIZES = [entry for entry in catalog.entries() if entry.config]


def test_every_family_is_there() -> None:
    assert {entry.family for entry in catalog.entries()} == FAMILIES


def test_it_begins_with_the_starter_and_grows() -> None:
    found = catalog.entries()
    assert found[0].source == "starter"
    known = [entry.parameters for entry in found[1:] if entry.parameters is not None]
    assert known == sorted(known)
    for entry in found:
        Model(source=entry.source)
    assert len({entry.source for entry in found}) == len(found)


def test_architectures_are_transformers_own() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    for entry in catalog.entries():
        if entry.model_type is None:
            assert entry.cannot, entry.source
        else:
            near = difflib.get_close_matches(entry.model_type, CONFIG_MAPPING_NAMES)
            assert entry.model_type in CONFIG_MAPPING_NAMES, (entry.source, near)


@pytest.mark.parametrize("entry", WITH_SIZES, ids=lambda entry: entry.source)
def test_parameters_and_layers_are_those_of_the_class(entry: CatalogEntry) -> None:
    one, two = _model(entry, 1), _model(entry, 2)
    first, layer = _count(one), _count(two) - _count(one)
    whole = first + (entry.config["num_hidden_layers"] - 1) * layer
    assert entry.parameters is not None
    assert abs(whole / 1e6 - entry.parameters) < max(0.01 * entry.parameters, 1), whole
    names = {name.rsplit(".", 1)[-1] for name, module in one.named_modules() if _is_linear(module)}
    assert set(entry.adapters) <= names, names
    assert entry.config["max_position_embeddings"] == entry.context


@pytest.mark.parametrize("entry", catalog.entries(), ids=lambda entry: entry.source)
def test_memory_falls_with_the_precision(entry: CatalogEntry) -> None:
    if entry.parameters is None:
        assert entry.memory == {}
        return
    dense = entry.config and entry.kind == "causal" and "num_experts" not in entry.config
    assert tuple(entry.memory) == ("float32", "bfloat16", *(("8bit", "4bit") if dense else ()))
    sizes = list(entry.memory.values())
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == pytest.approx(entry.parameters * 4 / 1000, rel=1e-6)


def test_templates_with_a_name_of_ftkit_are_known() -> None:
    named = {entry.template for entry in catalog.entries() if entry.template}
    assert named <= set(TEMPLATES)


def test_search_finds_by_every_word() -> None:
    assert catalog.search("")[0].source == "starter"
    found = catalog.search("qwen 0.5B")
    assert found
    assert all("0.5B" in entry.title for entry in found)
    assert {entry.maker for entry in catalog.search("MICROSOFT")} == {"Microsoft"}
    assert catalog.search("nothing-of-the-kind") == []
    assert not [entry for entry in catalog.search("bert") if entry.cannot]
    assert catalog.search("bert", loadable=False)


def _model(entry: CatalogEntry, layers: int) -> Any:
    import torch
    from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM

    settings = {
        key: value for key, value in entry.config.items() if key != "model_type" and value is not None
    }
    config = CONFIG_MAPPING[entry.model_type](
        **{**settings, **_own_names(entry), "num_hidden_layers": layers}
    )
    if entry.kind == "seq2seq":
        config.num_decoder_layers = layers
    kind = AutoModelForCausalLM if entry.kind == "causal" else AutoModel
    with torch.device("meta"):
        return kind.from_config(config)


def _own_names(entry: CatalogEntry) -> dict[str, Any]:
    """Sizes that a class calls otherwise than the catalogue does."""
    config = entry.config
    if entry.model_type == "t5":
        return {
            "d_model": config["hidden_size"],
            "d_ff": config["intermediate_size"],
            "d_kv": config["head_dim"],
        }
    if entry.model_type in ("mixtral", "gpt_oss"):
        return {"num_local_experts": config["num_experts"]}
    if entry.model_type == "falcon":
        return {"multi_query": True, "parallel_attn": True, "alibi": False}
    return {"n_inner": config["intermediate_size"]} if entry.model_type == "gpt2" else {}


def _count(model: Any) -> int:
    return sum({id(weight): weight.numel() for weight in model.parameters()}.values())


def _is_linear(module: Any) -> bool:
    return hasattr(module, "weight") and type(module).__name__ in ("Linear", "Conv1D", "FalconLinear")
