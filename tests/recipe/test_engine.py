"""The file that says how processes hold a model: what is read, what is refused, and how it is said."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftkit.errors import RecipeError, RunError
from ftkit.recipe import Recipe, engine
from ftkit.recipe.engine import Copies, Shards, Zero, read

Recipes = Callable[..., Recipe]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipes:
    """A Recipe for two processes whose file holds `values`, or is `text`."""

    def make(values: Any = None, text: str | None = None, **changes: Any) -> Recipe:
        path = tmp_path / "engine.yaml"
        path.write_text(yaml.safe_dump(values) if text is None else text)
        compute = {"launch": "torchrun", "processes": 2, "engine_config": str(path)}
        return Recipe(compute=compute).replace({k.replace("__", "."): v for k, v in changes.items()})

    return make


def fsdp(**settings: Any) -> dict[str, Any]:
    return {"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2, **settings}}


def refused(recipe: Recipe, *words: str) -> None:
    with pytest.raises(RecipeError) as error:
        read(recipe)
    for word in words:
        assert word in str(error.value)


def test_no_file_is_the_whole_model_in_each() -> None:
    assert read(Recipe()) == Copies()


@pytest.mark.parametrize("kind", ["NO", "MULTI_CPU", "MULTI_GPU"])
def test_accelerates_own_kinds_of_copies(recipe: Recipes, kind: str) -> None:
    file = {"compute_environment": "LOCAL_MACHINE", "distributed_type": kind, "num_processes": 2}
    assert read(recipe(file)) == Copies()


def test_fsdp_as_accelerate_writes_it(recipe: Recipes) -> None:
    file = fsdp(
        fsdp_reshard_after_forward="false",
        fsdp_transformer_layer_cls_to_wrap="LlamaDecoderLayer, Other",
        fsdp_auto_wrap_policy="TRANSFORMER_BASED_WRAP",
        fsdp_offload_params=True,
        fsdp_state_dict_type="SHARDED_STATE_DICT",
    )
    made = read(
        recipe(file | {"mixed_precision": "bf16", "num_machines": 1, "main_training_function": "main"})
    )
    assert isinstance(made, Shards)
    assert (made.reshard, made.by_layer, made.layers, made.offload) == (
        False,
        True,
        ("LlamaDecoderLayer", "Other"),
        True,
    )
    assert "state_dict_type" in made.notes[0]


def test_fsdp_of_the_first_version_is_carried_out_by_the_second(recipe: Recipes) -> None:
    made = read(recipe(fsdp(fsdp_version=1, fsdp_sharding_strategy="SHARD_GRAD_OP")))
    assert isinstance(made, Shards)
    assert not made.reshard
    assert "FSDP 2" in made.notes[0]


def test_transformers_names_of_fsdps_settings(recipe: Recipes) -> None:
    made = read(recipe(text='{\n\t"reshard_after_forward": true, "transformer_layer_cls_to_wrap": ["A"]}'))
    assert isinstance(made, Shards)
    assert made.layers == ("A",)


def test_deepspeeds_own_file(recipe: Recipes) -> None:
    file = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "fp16": {"enabled": "auto"},
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": 2, "overlap_comm": False, "reduce_bucket_size": "auto"},
        "wall_clock_breakdown": False,
    }
    made = read(recipe(text=json.dumps(file)))
    assert isinstance(made, Zero)
    assert made.stage == 2
    assert made.settings["zero_optimization"] == {"stage": 2, "overlap_comm": False}
    assert made.settings["train_micro_batch_size_per_gpu"] == 8
    assert made.settings["gradient_clipping"] == 1.0


def test_deepspeed_as_accelerate_writes_it_or_names_its_file(recipe: Recipes, tmp_path: Path) -> None:
    made = read(recipe({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 1}}))
    assert isinstance(made, Zero)
    assert made.stage == 1
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}}')
    named = {"distributed_type": "DEEPSPEED", "deepspeed_config": {"deepspeed_config_file": "ds.json"}}
    found = read(recipe(named))
    assert isinstance(found, Zero)
    assert found.stage == 2


def test_other_launches_have_no_engine() -> None:
    with pytest.raises(RecipeError, match=r"compute\.engine_config .* compute\.launch is 'thread'"):
        Recipe(compute={"engine_config": "fsdp.yaml"})


def test_a_file_that_is_not_there(recipe: Recipes) -> None:
    refused(recipe({}, compute__engine_config="nowhere.yaml"), "nowhere.yaml", "no such file")


@pytest.mark.parametrize(
    "text", ["just words", "- a\n- b", "a: [", "a: &x 1\nb: *x", "!!python/object/apply:os.getcwd []", "\x00"]
)
def test_what_is_no_settings(recipe: Recipes, text: str) -> None:
    refused(recipe(text=text), "engine.yaml")


def test_a_file_that_is_too_long(recipe: Recipes) -> None:
    refused(recipe(text="a: 1\n" * 30_000), "characters")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (fsdp(fsdp_ofload_params=True), ["fsdp_ofload_params", "fsdp_offload_params"]),
        (fsdp() | {"num_proceses": 2}, ["num_proceses", "num_processes"]),
        (
            {"zero_optimization": {"stage": 2}, "gradient_cliping": 1},
            ["gradient_cliping", "gradient_clipping"],
        ),
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stag": 2}},
            ["zero_stag", "zero_stage"],
        ),
        ({"distributed_type": "MEGATRON_LM"}, ["MEGATRON_LM", "FSDP"]),
        ({"distributed_type": "MULTI_GPU", "fsdp_config": {}}, ["MULTI_GPU", "set distributed_type to FSDP"]),
        (fsdp() | {"num_processes": 8}, ["num_processes is 8", "compute.processes is 2"]),
        (fsdp() | {"num_machines": 4}, ["num_machines"]),
        (fsdp() | {"mixed_precision": "fp16"}, ["mixed_precision", "fp16"]),
        (fsdp(fsdp_sharding_strategy="HYBRID_SHARD"), ["fsdp_sharding_strategy", "HYBRID_SHARD"]),
        (fsdp(fsdp_auto_wrap_policy="SIZE_BASED_WRAP"), ["fsdp_auto_wrap_policy", "SIZE_BASED_WRAP"]),
        (fsdp(fsdp_activation_checkpointing=True), ["compute.gradient_checkpointing"]),
        ({"zero_optimization": {"stage": 3}}, ["stage 3", "FSDP"]),
        ({"zero_optimization": 2}, ["zero_optimization is a section"]),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            ["offload_optimizer", "fsdp_offload_params"],
        ),
        ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "Adam"}}, ["training.optimizer"]),
        ({"zero_optimization": {"stage": 2}, "train_batch_size": 64}, ["64", "compute.processes is 16"]),
        ({"zero_optimization": {"stage": 2}, "fp16": {"enabled": True}}, ["fp16", "compute.dtype"]),
        ({"learning_rate": 1}, ["fsdp_learning_rate"]),
    ],
)
def test_what_is_refused_is_named(recipe: Recipes, file: dict[str, Any], words: list[str]) -> None:
    refused(recipe(file), "engine.yaml", *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training__optimizer": "muon", "method": {"type": "full"}}, ["training.optimizer 'muon'", "adamw"]),
        ({"method": {"type": "adalora"}}, ["method.type 'adalora'", "lora"]),
        ({"method__bias": "all"}, ["method.bias 'all'"]),
        ({"model__quantization": "4bit"}, ["model.quantization '4bit'"]),
        ({"training__ema_decay": 0.9}, ["training.ema_decay"]),
        ({"training__keep_best": True}, ["training.keep_best"]),
    ],
)
def test_what_a_split_model_does_not_go_with(
    recipe: Recipes, changes: dict[str, Any], words: list[str]
) -> None:
    refused(recipe(fsdp(), **changes), "FSDP", *words)


def test_one_process_has_nothing_to_split(recipe: Recipes) -> None:
    made = read(recipe(fsdp(), compute__processes=1))
    assert isinstance(made, Copies)
    assert "compute.processes is 1" in made.notes[0]


def test_precision_is_the_recipes(recipe: Recipes) -> None:
    file = fsdp() | {"mixed_precision": "bf16"}
    refused(recipe(file, compute__dtype="float32"), "mixed_precision", "compute.dtype")


def test_without_deepspeed_the_run_says_what_to_install(
    recipe: Recipes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda _: None)
    with pytest.raises(RunError, match="not installed") as error:
        engine.check(recipe({"zero_optimization": {"stage": 2}}))
    assert "ftkit[deepspeed]" in error.value.advice
    engine.check(recipe(fsdp()))


_KEYS = st.sampled_from(
    [
        *engine._Accelerate.model_fields,
        *engine._Fsdp.model_fields,
        *engine._DeepSpeed.model_fields,
        *sorted(engine._DEEPSPEED_KEYS),
        *("stage", "device", "offload_optimizer", "enabled"),
    ]
)
_WORDS = st.sampled_from(["FSDP", "DEEPSPEED", "auto", "no", "cpu", "FULL_SHARD", "true"]) | st.text(
    max_size=9
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.integers(0, 2), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(_KEYS | st.text(max_size=6), _VALUES, max_size=5))
def test_no_file_raises_anything_else(tmp_path: Path, values: dict[str, Any]) -> None:
    file = tmp_path / "any.json"
    file.write_text(json.dumps(values))
    compute = {"launch": "torchrun", "processes": 2, "engine_config": str(file)}
    with contextlib.suppress(RecipeError):
        read(Recipe(compute=compute))
