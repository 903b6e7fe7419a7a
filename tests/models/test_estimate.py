"""The estimate: parameters counted from a configuration, verdicts, what is unknown."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time

import pytest

from ftkit.errors import ModelError
from ftkit.models import device, estimate, fit_to_memory, probe
from ftkit.models.architecture import read
from ftkit.models.estimate import find_architecture, recomputation
from ftkit.models.fitting import savings
from ftkit.recipe import Model, Recipe

SIZES = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": 5000}
GROUPED = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 688}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("LlamaConfig", GROUPED),
        ("LlamaConfig", {**GROUPED, "tie_word_embeddings": True}),
        ("MistralConfig", GROUPED),
        ("Qwen2Config", {**GROUPED, "tie_word_embeddings": True}),
        ("Qwen3Config", {**GROUPED, "head_dim": 64}),
        ("Gemma3TextConfig", {**GROUPED, "head_dim": 64}),
        ("Phi3Config", {**GROUPED, "pad_token_id": 0}),
        ("MixtralConfig", {**GROUPED, "num_local_experts": 4}),
        ("GPT2Config", {"n_embd": 256, "n_layer": 4, "n_head": 8, "vocab_size": 5000}),
        ("OPTConfig", {**SIZES, "ffn_dim": 1024, "word_embed_proj_dim": 256}),
    ],
)
def test_parameters_are_counted_from_the_configuration(name, settings):
    import torch
    import transformers

    config = getattr(transformers, name)(**settings)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = read(json.loads(config.to_json_string(use_diff=False)))
    assert found is not None
    assert found.parameters == pytest.approx(model.num_parameters(), rel=0.01)


def test_a_configuration_within_another_is_read():
    inner = {**GROUPED, "model_type": "gemma3_text"}
    found = read({"model_type": "gemma3", "text_config": inner})
    assert found is not None
    assert found.tied
    assert found.layers == 4


def test_what_is_no_decoder_is_not_read():
    assert read({"model_type": "mystery"}) is None


@pytest.mark.parametrize(
    "method",
    [
        {"rank": 8},
        {"rank": 4, "target_modules": ("q_proj", "down_proj"), "layers_to_transform": (1,)},
        {"rank": 4, "init": "pissa"},
        {"rank": 4, "use_dora": True, "modules_to_save": ("embed_tokens",)},
        {"rank": 4, "trainable_tokens": ("<|im_end|>",)},
        {"type": "adalora"},
        {"type": "oft", "block_size": 16},
        {"type": "boft", "block_size": 8},
        {"type": "vera", "rank": 32},
        {"type": "ia3"},
        {"type": "prompt_tuning", "tokens": 5},
        {"type": "prefix_tuning", "tokens": 5},
        {"type": "freeze", "last_layers": 1},
        {"type": "freeze", "expand_layers": 2},
    ],
    ids=lambda method: "-".join(map(str, method.values())),
)
def test_what_a_method_trains_is_counted_as_it_is(tiny_model_folder, method):
    from ftkit.models import apply_method, count_parameters, load_model
    from ftkit.models.sizes import trainable
    from ftkit.recipe import Compute

    recipe = Recipe(model=str(tiny_model_folder()), method=method)
    loaded = load_model(recipe.model, Compute(device="cpu"))
    apply_method(loaded, recipe.method)
    found = find_architecture(recipe.model)
    assert found is not None
    counted = count_parameters(loaded.model).trainable
    norms = 2 * 2 * 32 if recipe.method.saves == "model" else 0
    assert counted - norms <= trainable(found, recipe.method) <= counted


def test_the_starters_sizes_are_known():
    found = find_architecture(Model())
    assert found is not None
    assert found.parameters == 134_515_008


def test_a_gguf_file_is_read_without_its_weights(tiny_gguf, tiny_model_folder):
    from_gguf, from_folder = (
        find_architecture(Model(source=str(path))) for path in (tiny_gguf, tiny_model_folder())
    )
    assert from_gguf is not None
    assert from_folder is not None
    assert from_gguf.parameters == from_folder.parameters


@pytest.fixture
def machine(monkeypatch):
    """Pretend that so many GB of memory are free."""

    def free(gb, native_bf16=True):
        here = dataclasses.replace(device._cpu(), native_bf16=native_bf16, memory_gb=gb + 1, free_gb=gb)
        # The package's name `estimate` is the function; the module of that name is found among the modules.
        monkeypatch.setattr(sys.modules["ftkit.models.estimate"], "probe", lambda kind: here)

    return free


@pytest.mark.parametrize(("gb", "verdict"), [(16, "fits"), (1.4, "tight"), (1.0, "will not fit")])
def test_verdicts(machine, gb, verdict):
    machine(gb)
    answer = estimate(Recipe())
    assert answer.verdict == verdict
    assert answer.peak_gb == pytest.approx(sum(answer.parts.values()))
    assert f"{gb:.1f} GB that are free" in answer.reason


# Peaks of whole runs on the starter model, in GB: the resident memory of a process that calls `ftkit.start`.
# LoRA of 4 and 8 rows in bfloat16: on a machine without it, its products computed in float32 (NOTES.md).
@pytest.mark.parametrize(
    ("batch", "row", "level", "changes", "measured"),
    [
        (1, 227, "off", {}, 1.28),
        (8, 232, "off", {}, 1.96),
        (8, 232, "layers", {}, 1.28),
        (4, 544, "mlp", {}, 1.46),
        (1, 227, "layers", {}, 1.26),
        (1, 244, "off", {"compute.dtype": "float32", "method.rank": 8}, 1.53),
        (8, 235, "off", {"compute.dtype": "float32", "method.rank": 8}, 2.86),
        (8, 235, "layers", {"compute.dtype": "float32", "method.rank": 8}, 1.68),
        (8, 231, "off", {"compute.fast": False}, 4.63),
        (8, 231, "off", {"method": {"type": "full"}}, 6.27),
    ],
)
def test_the_estimate_is_within_15_percent_of_what_was_measured(
    machine, batch, row, level, changes, measured
):
    machine(30)
    recipe = Recipe().replace(
        {"training.batch_size": batch, "compute.gradient_checkpointing": level, **changes}
    )
    answer = estimate(recipe, row_tokens=row)
    assert answer.peak_gb == pytest.approx(measured, rel=0.15)


_SMALL = {
    "llama": {
        "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 16,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 32_000, "tie_word_embeddings": True,
    },
    "qwen2": {
        "model_type": "qwen2", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 10,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 50_000,
    },
    "gemma3": {
        "model_type": "gemma3_text", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 128, "vocab_size": 200_000,
    },
}  # fmt: skip


@pytest.fixture
def small(machine, monkeypatch):
    """Name one of the models of tests/benchmarks/memory.py: it is what a Recipe finds, in float32."""
    machine(30, native_bf16=False)

    def name(model):
        found = read(_SMALL[model])
        monkeypatch.setattr(sys.modules["ftkit.models.estimate"], "find_architecture", lambda *_, **__: found)

    return name


# The same of small models of other shapes in float32: peaks that tests/benchmarks/memory.py measured.
@pytest.mark.parametrize(
    ("model", "batch", "row", "method", "level", "measured"),
    [
        ("llama", 1, 78, "lora", "off", 0.90),
        ("llama", 8, 334, "lora", "layers", 1.29),
        ("llama", 1, 78, "full", "off", 1.75),
        ("llama", 8, 80, "lora", "off", 1.15),
        ("llama", 8, 80, "full", "off", 1.99),
        ("llama", 8, 334, "lora", "off", 2.08),
        ("llama", 8, 334, "full", "off", 3.80),
        ("qwen2", 1, 78, "lora", "off", 1.41),
        ("qwen2", 8, 80, "lora", "off", 1.61),
        ("qwen2", 8, 80, "full", "off", 3.62),
        ("qwen2", 1, 334, "full", "off", 3.38),
        ("qwen2", 8, 80, "lora", "layers", 1.41),
        ("qwen2", 8, 334, "lora", "off", 2.63),
        ("qwen2", 8, 334, "lora", "layers", 1.70),
        ("qwen2", 8, 334, "full", "off", 5.21),
        ("qwen2", 8, 334, "full", "layers", 3.94),
        ("gemma3", 1, 78, "lora", "off", 1.27),
        ("gemma3", 1, 78, "full", "off", 3.31),
        ("gemma3", 8, 80, "full", "off", 3.61),
        ("gemma3", 8, 80, "full", "layers", 3.34),
        ("gemma3", 8, 334, "lora", "off", 2.50),
        ("gemma3", 8, 334, "lora", "layers", 1.70),
        ("gemma3", 8, 334, "full", "off", 5.18),
    ],
)
def test_the_estimate_is_within_15_percent_over_models_batches_and_lengths(
    small, model, batch, row, method, level, measured
):
    small(model)
    recipe = Recipe(
        method={"type": "lora", "rank": 8} if method == "lora" else "full",
        data={"max_length": 4096},
        training={"batch_size": batch},
        compute={"gradient_checkpointing": level},
    )
    answer = estimate(recipe, row_tokens=row)
    assert 0.9 <= answer.peak_gb / measured <= 1.15


def test_passes_before_the_last_one_leave_gradients_beside_what_is_kept(small):
    small("qwen2")
    recipe = Recipe(method="full", training={"batch_size": 8}, compute={"gradient_checkpointing": "off"})
    one, four = (
        estimate(recipe.replace({"training.gradient_accumulation_steps": count}), row_tokens=80)
        for count in (1, 4)
    )
    gradients = read(_SMALL["qwen2"]).parameters * 4e-9
    assert one.parts["gradients"] < four.parts["gradients"] == pytest.approx(gradients)


def test_an_optimizer_that_copies_matrices_needs_room_for_the_largest(small):
    small("gemma3")
    recipe = Recipe(method="full", compute={"gradient_checkpointing": "off"})
    one, other = (
        estimate(recipe.replace({"training.optimizer": name}), row_tokens=80) for name in ("adamw", "rmsprop")
    )
    matrix = 200_000 * 512 * 4e-9
    assert other.parts["buffers"] - one.parts["buffers"] == pytest.approx(matrix)


def test_automatic_recomputation_is_the_least_that_fits(machine):
    found = []
    for gb in (16, 2.4, 2.0, 1.6, 1.0):
        machine(gb)
        answer = estimate(Recipe(), row_tokens=231)
        found.append(answer.recompute)
        assert recomputation(Recipe(), row_tokens=231)[0] == answer.recompute
    assert found == ["off", "attention", "mlp", "layers", "layers"]
    machine(16)
    assert estimate(Recipe(compute={"gradient_checkpointing": True})).recompute == "layers"


def test_longer_rows_than_the_cut_off_are_not_counted(machine):
    machine(30)
    recipe = Recipe(data={"max_length": 128})
    assert estimate(recipe, row_tokens=4000).peak_gb == estimate(recipe, row_tokens=128).peak_gb


def test_what_cannot_be_known_is_said(tmp_path):
    answer = estimate(Recipe(model=str(tmp_path / "nothing")))
    assert (answer.verdict, answer.peak_gb) == ("unknown", None)
    assert "no file or folder" in answer.reason
    offline = estimate(Recipe(model="some-org/some-model", compute={"offline": True}))
    assert offline.verdict == "unknown"


def test_a_model_of_the_catalogue_is_known_without_the_hub(machine):
    machine(64)
    known = estimate(Recipe(model="Qwen/Qwen3-0.6B", compute={"offline": True}))
    assert known.verdict == "fits"
    assert round(known.parameters / 1e6) == 596


def test_advice_goes_to_the_largest_part(machine):
    machine(1.5)
    assert "batch_size" in estimate(Recipe(), row_tokens=1000).reason
    assert "LoRA" in estimate(Recipe(method="full", training={"batch_size": 1}), row_tokens=20).reason


def test_probe_is_cheap_enough_for_a_panel():
    probe("cpu")
    start = time.perf_counter()
    probe("cpu")
    assert time.perf_counter() - start < 0.5


def test_fitting_keeps_the_batch_and_takes_what_is_fastest(machine):
    recipe = Recipe(training={"batch_size": 12, "gradient_accumulation_steps": 2})
    machine(16)
    assert fit_to_memory(recipe).changes == {}
    machine(3.2)
    rows = 400
    assert estimate(recipe, row_tokens=rows).verdict == "fits", "`auto` makes more again"
    fixed = recipe.replace({"compute.gradient_checkpointing": "off"})
    assert estimate(fixed, row_tokens=rows).verdict == "tight"
    found = fit_to_memory(fixed, row_tokens=rows)
    training = found.recipe.training
    assert training.batch_size * training.gradient_accumulation_steps == 24
    assert found.estimate.verdict == "fits"
    assert found.changes
    assert "instead of" in found.reason
    machine(1.6)
    smaller = fit_to_memory(recipe, row_tokens=rows)
    assert smaller.recipe.training.batch_size < 12
    assert smaller.estimate.peak_gb < 1.6


def test_what_fits_in_no_way_says_what_would_help_and_by_how_much(machine):
    machine(1.0)
    with pytest.raises(ModelError, match="needed at least") as caught:
        fit_to_memory(Recipe(method="full"), row_tokens=500)
    assert re.search(r"method lora saves about \d\.\d GB", caught.value.advice)


def test_savings_come_in_order_of_their_effect(machine):
    machine(16)
    recipe = Recipe(training={"batch_size": 32}, compute={"gradient_checkpointing": "off"})
    said = savings(recipe, row_tokens=900)
    amounts = [float(re.search(r"about ([\d.]+) GB", one)[1]) for one in said]
    assert amounts == sorted(amounts, reverse=True)
    assert {one.split()[0] for one in said} >= {
        "training.batch_size", "data.max_length", "compute.gradient_checkpointing",
    }  # fmt: skip
