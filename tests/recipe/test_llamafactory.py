"""LLaMA-Factory's files: every key has a fate, values are read as they are meant, nothing is lost."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import ftkit
from ftkit.errors import FtkitError, RecipeError
from ftkit.recipe import llamafactory
from ftkit.recipe.llamafactory import document, places
from ftkit.recipe.llamafactory.rules import RULES
from ftkit.recipe.llamafactory.table import table

BASE = {
    "model_name_or_path": "org/name",
    "do_train": True,
    "dataset": "own_rows",
    "output_dir": "saves/own",
}

FULL = """
### model
model_name_or_path: org/base-1b
model_revision: main
trust_remote_code: false

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 32
lora_target: q_proj, v_proj ,o_proj
lora_dropout: 0.05

### dataset
dataset: poems, letters
dataset_dir: rows
template: qwen3
cutoff_len: 4096
max_samples: 500
val_size: 0.05
preprocessing_num_workers: 4

### output
output_dir: saves/poems
logging_steps: 5
save_steps: 0.25
save_total_limit: null
plot_loss: true
report_to: none

### train
per_device_train_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 2e-5
num_train_epochs: 3
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
gradient_checkpointing_kwargs: {use_reentrant: false}
eval_strategy: steps
eval_steps: 0.2
seed: 7
"""


def _convert(**keys: Any) -> llamafactory.Import:
    return llamafactory.convert({**BASE, **keys})


def _fate(found: llamafactory.Import, key: str) -> str:
    """Where a key ended up: exactly one place."""
    places_of = {
        "mapped": key in found.mapped,
        "honoured": key in found.honoured,
        "not_applicable": key in found.not_applicable,
        "errors": any(key in problem.keys for problem in found.errors),
    }
    there = [name for name, yes in places_of.items() if yes]
    assert len(there) == 1, (key, there, found)
    return there[0]


def _value(found: llamafactory.Import, path: str) -> Any:
    value: Any = found.recipe
    for name in path.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


# The table


def test_every_key_of_the_trainer_is_in_the_table() -> None:
    from transformers import Seq2SeqTrainingArguments

    fields = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)}
    assert fields <= set(table()), fields - set(table())


def test_every_entry_says_what_becomes_of_its_key() -> None:
    for key in table().values():
        assert key.to or key.rule or key.does or key.not_here or key.chat, key.name
        assert key.rule is None or key.rule in RULES, key.name
        assert key.type in {"flag", "whole", "number", "text", "names", "mapping", "any"}, key.name
        if key.to:
            assert key.to.split(".")[0] in ftkit.Recipe.model_fields, key.name
    assert {key.rule for key in table().values() if key.rule} == set(RULES)


def test_every_default_is_a_value_of_its_key() -> None:
    defaults = {key.name: key.default for key in table().values() if key.default is not None}
    found = llamafactory.convert(defaults)
    assert not [problem for problem in found.errors if "given" in problem.message]


def test_the_document_is_made_of_the_table() -> None:
    shown = document.PATH.read_text(encoding="utf-8")
    assert shown == document.text(), "make it anew: python -m ftkit.recipe.llamafactory.document"
    assert all(f"| `{name}` |" in shown for name in table())


# Values and fates


def test_a_whole_file_becomes_a_recipe() -> None:
    found = llamafactory.loads(FULL)
    assert found.errors == ()
    recipe = found.checked()
    assert found.kind == "train"
    assert (recipe.model.source, recipe.model.revision) == ("org/base-1b", None)
    assert (recipe.data.source, recipe.data.subset) == ("rows", "poems, letters")
    assert (recipe.data.max_length, recipe.data.max_rows, recipe.data.held_out_fraction) == (4096, 500, 0.05)
    assert (recipe.method.rank, recipe.method.alpha, recipe.method.dropout) == (32, 64.0, 0.05)
    assert recipe.method.target_modules == ("q_proj", "v_proj", "o_proj")
    assert (recipe.training.learning_rate, recipe.training.warmup) == (2e-5, 0.1)
    assert (recipe.training.evals, recipe.training.checkpoints) == (5, 3)
    assert (recipe.training.seed, recipe.data.seed) == (7, 7)
    assert recipe.compute.dtype == "bfloat16"
    assert (str(recipe.output.folder), recipe.output.name) == ("saves", "poems")
    keys = [line.split(":")[0] for line in FULL.splitlines() if line and not line.startswith("#")]
    fates = {key: _fate(found, key) for key in keys}
    assert fates["learning_rate"] == "mapped"
    assert fates["plot_loss"] == fates["save_total_limit"] == fates["report_to"] == "honoured"
    assert fates["gradient_checkpointing_kwargs"] == "not_applicable"


def test_json_is_read_as_yaml_is() -> None:
    assert llamafactory.loads(json.dumps(BASE)).checked() == _convert().checked()


def test_what_the_file_leaves_out_is_as_llamafactory_has_it() -> None:
    found = _convert()
    recipe = found.checked()
    assert (recipe.method.rank, recipe.training.learning_rate, recipe.training.epochs) == (8, 5e-5, 3.0)
    assert (recipe.training.lr_scheduler, recipe.training.warmup) == ("linear", 0.0)
    assert "learning_rate" in found.assumed["training.learning_rate"]
    assert "training.learning_rate" not in _convert(learning_rate="5e-5").assumed


@pytest.mark.parametrize(
    ("written", "meant"),
    [("2e-5", 2e-5), ("1.0e-4", 1e-4), (1e-4, 1e-4), ("0.0002", 2e-4), (" 3E-4 ", 3e-4)],
)
def test_a_number_may_be_written_as_text(written: Any, meant: float) -> None:
    assert _convert(learning_rate=written).checked().training.learning_rate == meant


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("learning_rate", "fast", "number"),
        ("learning_rate", float("nan"), "finite"),
        ("learning_rate", 7, "training.learning_rate"),
        ("lora_rank", 2.5, "whole"),
        ("lora_rank", [8], "number"),
        ("lora_rank", 0, "method.rank"),
        ("bf16", "perhaps", "true or false"),
        ("stage", "dop", "did you mean 'dpo'"),
        ("lr_scheduler_type", "cosin", "did you mean 'cosine'"),
        ("optim", "adamw_troch", "adamw_torch"),
        ("mix_strategy", "interleave", "one of concat"),
        ("output_dir", "${oc.env:HOME}/saves", "itself"),
        ("learning_rate", "???", "filled in"),
        ("gradient_checkpointing_kwargs", 3, "mapping"),
    ],
)
def test_a_wrong_value_names_its_key(key: str, value: Any, words: str) -> None:
    found = _convert(**{key: value})
    assert found.recipe is None
    assert any(key in problem.keys and words in str(problem) for problem in found.errors), found.errors


def test_an_unknown_key_is_an_error_with_a_hint() -> None:
    found = _convert(learning_rte=1e-4, colour="blue")
    messages = {problem.keys[0]: str(problem) for problem in found.errors}
    assert "Did you mean 'learning_rate'?" in messages["learning_rte"]
    assert "no such key" in messages["colour"]
    with pytest.raises(RecipeError, match="learning_rte"):
        found.checked()


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match="lora_rank"):
        llamafactory.loads("lora_rank: 8\nlora_rank: 16\n")
    with pytest.raises(RecipeError, match="lora_rank"):
        llamafactory.loads('{"lora_rank": 8, "lora_rank": 16}')


def test_code_of_others_is_not_switched_on_in_passing() -> None:
    found = _convert(trust_remote_code=True)
    assert found.checked().model.trust_remote_code
    assert "unless you have read that code" in found.mapped["trust_remote_code"]


def test_a_recipe_is_no_file_of_llamafactory() -> None:
    with pytest.raises(RecipeError, match="Recipe of ftkit already"):
        llamafactory.loads(ftkit.Recipe().to_yaml())


def test_a_secret_is_never_shown() -> None:
    found = _convert(hf_hub_token="hf_hidden", swanlab_api_key=["hidden"])
    assert "hidden" not in json.dumps(found.to_dict())
    assert _fate(found, "hf_hub_token") == "not_applicable"
    assert _fate(found, "swanlab_api_key") == "errors"


# Every stage, method and extra


@pytest.mark.parametrize(
    ("keys", "path", "value"),
    [
        ({"stage": "pt"}, "objective.type", "pretraining"),
        ({"stage": "sft"}, "objective.type", "sft"),
        ({"stage": "sft", "train_on_prompt": True}, "objective.train_on", "all"),
        ({"stage": "sft", "mask_history": True}, "objective.train_on", "last"),
        ({"stage": "sft", "use_dft_loss": True}, "objective.loss", "dft"),
        ({"stage": "sft", "use_eaft_loss": True}, "objective.loss", "eaft"),
        ({"stage": "sft", "label_smoothing_factor": 0.1}, "objective.label_smoothing", 0.1),
        ({"stage": "rm"}, "objective.type", "reward"),
        ({"stage": "dpo"}, "objective.type", "dpo"),
        ({"stage": "dpo", "pref_loss": "hinge"}, "objective.loss", "hinge"),
        ({"stage": "dpo", "pref_loss": "ipo"}, "objective.loss", "ipo"),
        ({"stage": "dpo", "pref_loss": "orpo"}, "objective.type", "orpo"),
        ({"stage": "dpo", "pref_loss": "simpo", "simpo_gamma": 0.7}, "objective.gamma", 0.7),
        ({"stage": "dpo", "pref_beta": "0.3"}, "objective.beta", 0.3),
        ({"stage": "dpo", "pref_ftx": 0.2}, "objective.sft_weight", 0.2),
        ({"stage": "dpo", "dpo_label_smoothing": 0.1}, "objective.label_smoothing", 0.1),
        ({"stage": "dpo", "ld_alpha": 0.5}, "objective.ld_alpha", 0.5),
        ({"stage": "kto", "kto_rejected_weight": 1.5}, "objective.undesirable_weight", 1.5),
        ({"stage": "kto", "kto_chosen_weight": 0.5}, "objective.desirable_weight", 0.5),
        ({"finetuning_type": "full"}, "method.type", "full"),
        ({"finetuning_type": "freeze"}, "method.last_layers", 2),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": -3}, "method.first_layers", 3),
        (
            {"finetuning_type": "freeze", "freeze_trainable_modules": "mlp, self_attn"},
            "method.modules",
            ("mlp", "self_attn"),
        ),
        (
            {"finetuning_type": "freeze", "freeze_extra_modules": "lm_head"},
            "method.extra_modules",
            ("lm_head",),
        ),
        (
            {"finetuning_type": "freeze", "use_llama_pro": True, "freeze_trainable_layers": 4},
            "method.expand_layers",
            4,
        ),
        ({"finetuning_type": "oft", "oft_block_size": 16}, "method.block_size", 16),
        ({"finetuning_type": "oft", "module_dropout": 0.1}, "method.dropout", 0.1),
        ({"lora_alpha": 5}, "method.alpha", 5.0),
        ({"use_rslora": True}, "method.use_rslora", True),
        ({"use_dora": True}, "method.use_dora", True),
        ({"pissa_init": True}, "method.init", "pissa"),
        ({"loraplus_lr_ratio": 16.0}, "method.loraplus_ratio", 16.0),
        (
            {"additional_target": "embed_tokens, lm_head"},
            "method.modules_to_save",
            ("embed_tokens", "lm_head"),
        ),
        ({"adapter_name_or_path": "saves/before"}, "method.start_from", "saves/before"),
        ({"quantization_bit": 4}, "model.quantization", "4bit"),
        ({"quantization_bit": 8}, "model.quantization", "8bit"),
        ({"quantization_bit": 4, "quantization_method": "hqq"}, "model.quantization", "hqq4"),
        ({"add_tokens": "<a>, <b>", "resize_vocab": True}, "model.new_tokens", ("<a>", "<b>")),
        ({"finetuning_type": "full", "use_galore": True}, "training.optimizer", "galore"),
        ({"finetuning_type": "full", "use_apollo": True}, "training.optimizer", "apollo"),
        ({"finetuning_type": "full", "use_badam": True}, "training.optimizer", "badam"),
        ({"finetuning_type": "full", "use_adam_mini": True}, "training.optimizer", "adam_mini"),
        ({"finetuning_type": "full", "use_muon": True}, "training.optimizer", "muon"),
        (
            {
                "finetuning_type": "full",
                "use_badam": True,
                "badam_switch_mode": "random",
                "badam_switch_interval": 7,
            },
            "training.optimizer_kwargs",
            {"switch_mode": "random", "switch_interval": 7},
        ),
        ({"use_adam_mini": True}, "training.optimizer", "adam_mini"),
        ({"optim": "ademamix"}, "training.optimizer", "ademamix"),
        (
            {"finetuning_type": "full", "use_galore": True, "galore_target": "q_proj, mlp"},
            "training.optimizer_kwargs",
            {
                "target_modules": ["q_proj", "mlp"],
                "rank": 16,
                "update_interval": 200,
                "scale": 2.0,
                "projection": "std",
            },
        ),
        (
            {"adapter_name_or_path": "saves/first", "create_new_adapter": True},
            "method.stack_on",
            "saves/first",
        ),
        ({"optim": "adafactor"}, "training.optimizer", "adafactor"),
        ({"optim": "sgd"}, "training.optimizer", "sgd"),
        ({"optim": "paged_adamw_8bit"}, "training.optimizer", "paged_adamw_8bit"),
        ({"optim": "lion_8bit"}, "training.optimizer", "lion_8bit"),
        (
            {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant"},
            "training.optimizer",
            "schedule_free",
        ),
        ({"lr_scheduler_type": "constant_with_warmup"}, "training.lr_scheduler", "constant_with_warmup"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "training.lr_scheduler", "warmup_stable_decay"),
        ({"lr_scheduler_type": "polynomial"}, "training.lr_scheduler", "polynomial"),
        (
            {"lr_scheduler_kwargs": {"min_lr": 1e-6}, "lr_scheduler_type": "cosine_with_min_lr"},
            "training.lr_scheduler_kwargs",
            {"min_lr": 1e-6},
        ),
        ({"neftune_noise_alpha": 5}, "training.neftune_alpha", 5.0),
        (
            {"early_stopping_steps": 3, "val_size": 0.1, "eval_strategy": "steps", "eval_steps": 0.5},
            "training.early_stopping_patience",
            3,
        ),
        ({"max_steps": 200, "warmup_steps": 20}, "training.warmup", 0.1),
        ({"max_steps": 200, "save_steps": 50}, "training.checkpoints", 3),
        ({"save_strategy": "epoch", "num_train_epochs": 4}, "training.checkpoints", 3),
        (
            {"max_steps": 200, "eval_strategy": "steps", "eval_steps": 50, "val_size": 0.1},
            "training.evals",
            4,
        ),
        ({"eval_strategy": "epoch", "val_size": 0.1, "num_train_epochs": 2}, "training.evals", 2),
        ({"weight_decay": "1e-2"}, "training.weight_decay", 0.01),
        ({"max_grad_norm": 0.5}, "training.max_grad_norm", 0.5),
        ({"pure_bf16": True}, "compute.dtype", "bfloat16"),
        ({"fp16": True}, "compute.dtype", "float16"),
        ({"gradient_checkpointing": True}, "compute.gradient_checkpointing", "layers"),
        ({"disable_gradient_checkpointing": True}, "compute.gradient_checkpointing", "off"),
        ({"flash_attn": "disabled"}, "compute.fast.attention", False),
        ({"use_cpu": True}, "compute.device", "cpu"),
        ({"use_unsloth": True}, "compute.backend", "unsloth"),
        ({"ray_num_workers": 2}, "compute.processes", 2),
        ({"deepspeed": "ds_z2.json"}, "compute.engine_config", "ds_z2.json"),
        ({"deepspeed": "ds_z2.json"}, "compute.launch", "torchrun"),
        ({"fsdp": "full_shard auto_wrap", "fsdp_config": "f.json"}, "compute.engine_config", "f.json"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "compute.launch", "thread"),
        ({"deepspeed": "ds_z2.json", "ray_num_workers": 2}, "compute.engine_config", None),
        ({"save_total_limit": 3}, "output.keep_checkpoints", 3),
        (
            {"load_best_model_at_end": True, "val_size": 0.1, "eval_strategy": "steps", "eval_steps": 0.5},
            "training.keep_best",
            True,
        ),
        ({"template": "chatml"}, "data.template", "chatml"),
        ({"default_system": "Be brief."}, "data.system_prompt", "Be brief."),
        ({"dataset_dir": "ONLINE", "dataset": "org/a, org/b"}, "data.source", "org/a"),
        ({"dataset": "a, b", "mix_strategy": "interleave_over"}, "data.mix", "interleave_over"),
    ],
)
def test_every_stage_method_and_extra(keys: dict[str, Any], path: str, value: Any) -> None:
    found = _convert(**keys)
    for key in keys:
        assert _fate(found, key) in ("mapped", "honoured", "not_applicable", "errors")
    kinds = llamafactory.convert({**BASE, **keys})
    objective = kinds.recipe.objective.type if kinds.recipe else ""
    method = kinds.recipe.method.type if kinds.recipe else ""
    if path.endswith(".type"):
        there = places.missing(path, {}, value) is None
        assert (found.recipe is not None) == there, found.errors
    elif found.recipe is None:  # the objective or the method is not in this version
        assert all("this version of ftkit has no" in problem.message for problem in found.errors)
        return
    else:
        there = places.missing(path, {"objective": objective, "method": method}, value) is None
    if there:
        assert _value(found, path) == value
    else:
        said = [*found.not_applicable.values(), *(problem.message for problem in found.errors)]
        assert any("this version of ftkit has no" in text for text in said)


def test_what_a_recipe_refuses_is_told_by_the_keys() -> None:
    if places.missing("objective.label_smoothing", {"objective": "sft"}):
        pytest.skip("not in this version")
    found = _convert(use_dft_loss=True, label_smoothing_factor=0.1)
    assert any({"use_dft_loss", "label_smoothing_factor"} <= set(one.keys) for one in found.errors)


def test_the_margin_of_simpo_is_llamafactorys_where_the_file_has_none() -> None:
    if places.missing("objective.type", {}, "simpo"):
        pytest.skip("not in this version")
    recipe = _convert(stage="dpo", pref_loss="simpo").checked()
    assert (recipe.objective.beta, recipe.objective.gamma) == (0.1, 0.5)


def test_ppo_is_told_to_become_its_successor() -> None:
    found = _convert(stage="ppo", reward_model="saves/reward")
    said = found.mapped.get("stage", "") + " ".join(map(str, found.errors))
    assert "rloo" in said


def test_a_stage_ignores_the_keys_of_others_and_says_so() -> None:
    found = _convert(stage="sft", pref_beta=0.2, freeze_trainable_layers=3)
    assert found.not_applicable["pref_beta"] == "read where stage is dpo or kto; here it is sft"
    assert "finetuning_type is freeze" in found.not_applicable["freeze_trainable_layers"]


# Data


@pytest.fixture
def listing(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / "data"
    folder.mkdir(parents=True)
    entries = {name: {"file_name": f"{name}.json"} for name in ("poems", "letters")}
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    for name in entries:
        rows = [{"instruction": f"Write {n}.", "input": "", "output": f"Here is {n}."} for n in range(4)]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def test_a_relative_folder_is_found_from_the_file(listing: Path) -> None:
    file = listing.parent / "configs" / "sft.yaml"
    file.parent.mkdir()
    file.write_text(
        "model_name_or_path: org/name\nstage: sft\ndo_train: true\ndataset: poems, letters\n"
        "dataset_dir: data\noutput_dir: saves/x\n"
    )
    recipe = llamafactory.load(file).checked()
    assert recipe.data.source == str(listing)
    from ftkit.data import load

    dataset = load(recipe.data)
    assert len(dataset.train) == 8


def test_interleaved_datasets_keep_their_shares(listing: Path) -> None:
    found = _convert(
        dataset="poems, letters",
        dataset_dir=str(listing),
        mix_strategy="interleave_under",
        interleave_probs="0.75, 0.25",
        max_samples=3,
    )
    data = found.checked().data
    assert (data.subset, data.weight, data.max_rows) == ("poems", 0.75, 3)
    assert [(one.subset, one.weight, one.max_rows) for one in data.mixed_with] == [("letters", 0.25, 3)]
    from ftkit.data import load

    assert {part.rows for part in load(data).parts} == {3}


def test_shares_must_match_the_datasets() -> None:
    found = _convert(dataset="a, b", mix_strategy="interleave_under", interleave_probs="0.5")
    assert any("interleave_probs has 1 shares for 2 datasets" in str(problem) for problem in found.errors)


def test_an_eval_dataset_is_the_file_that_the_listing_names(listing: Path) -> None:
    found = _convert(dataset="poems", eval_dataset="letters", dataset_dir=str(listing))
    data = found.checked().data
    assert data.held_out_source == str(listing / "letters.json")
    from ftkit.data import load

    assert (len(load(data).train), len(load(data).held_out)) == (4, 4)
    unknown = _convert(dataset="poems", eval_dataset="letters")
    assert _fate(unknown, "eval_dataset") == "not_applicable"
    entries = {"poems": {"file_name": "poems.json"}, "letters": {"file_name": "../../letters.json"}}
    (listing / "dataset_info.json").write_text(json.dumps(entries))
    outside = _convert(dataset="poems", eval_dataset="letters", dataset_dir=str(listing))
    assert _fate(outside, "eval_dataset") == "not_applicable"


# Combinations that cannot be


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"val_size": 0.1, "eval_dataset": "x"}, {"val_size", "eval_dataset"}),
        ({"interleave_probs": "0.5, 0.5", "dataset": "a, b"}, {"interleave_probs", "mix_strategy"}),
        ({"streaming": True, "max_samples": 5, "max_steps": 5}, {"streaming", "max_samples"}),
        ({"streaming": True}, {"streaming", "max_steps"}),
        ({"mask_history": True, "train_on_prompt": True}, {"mask_history", "train_on_prompt"}),
        ({"stage": "pt", "train_on_prompt": True}, {"stage", "train_on_prompt"}),
        ({"stage": "dpo", "neat_packing": True}, {"stage", "neat_packing"}),
        ({"use_dft_loss": True, "use_eaft_loss": True}, {"use_dft_loss", "use_eaft_loss"}),
        ({"stage": "ppo"}, {"stage", "reward_model"}),
        (
            {"stage": "dpo", "pref_loss": "ipo", "dpo_label_smoothing": 0.1},
            {"dpo_label_smoothing", "pref_loss"},
        ),
        ({"use_llama_pro": True, "finetuning_type": "full"}, {"use_llama_pro", "finetuning_type"}),
        ({"use_galore": True}, {"use_galore", "finetuning_type"}),
        ({"use_galore": True, "use_badam": True, "finetuning_type": "full"}, {"use_galore", "use_badam"}),
        ({"stage": "kto", "pissa_init": True}, {"pissa_init", "stage"}),
        ({"finetuning_type": "full", "use_dora": True}, {"use_dora", "finetuning_type"}),
        (
            {"finetuning_type": "full", "adapter_name_or_path": "a"},
            {"adapter_name_or_path", "finetuning_type"},
        ),
        ({"finetuning_type": "full", "quantization_bit": 4}, {"quantization_bit", "finetuning_type"}),
        ({"quantization_bit": 4, "pissa_init": True}, {"quantization_bit", "pissa_init"}),
        ({"quantization_bit": 4, "resize_vocab": True}, {"quantization_bit", "resize_vocab"}),
        ({"load_best_model_at_end": True}, {"load_best_model_at_end", "eval_strategy"}),
        ({"eval_strategy": "steps", "eval_steps": 0.5}, {"eval_strategy", "val_size"}),
        ({"fp16": True, "bf16": True}, {"fp16", "bf16"}),
        ({"warmup_steps": 0.2, "warmup_ratio": 0.1}, {"warmup_steps", "warmup_ratio"}),
        (
            {"gradient_checkpointing": True, "disable_gradient_checkpointing": True},
            {"gradient_checkpointing", "disable_gradient_checkpointing"},
        ),
        ({"dataset": None}, {"dataset", "do_train"}),
        ({"model_name_or_path": None}, {"model_name_or_path"}),
        ({"stage": "pt", "default_system": "Hi"}, {"default_system"}),
    ],
)
def test_what_does_not_go_together_is_named(keys: dict[str, Any], named: set[str]) -> None:
    found = _convert(**keys)
    assert found.recipe is None
    assert any(named <= set(problem.keys) for problem in found.errors), found.errors


# Kinds


def test_the_kind_is_told_by_the_keys() -> None:
    model = {"model_name_or_path": "org/name", "template": "llama3"}
    chat = llamafactory.convert({**model, "temperature": 0.3, "top_p": 0.9, "infer_backend": "huggingface"})
    assert chat.kind == "chat"
    assert chat.settings == {"temperature": 0.3, "top_p": 0.9}
    assert chat.checked().model.source == "org/name"
    greedy = llamafactory.convert({**model, "do_sample": False, "temperature": 0.3})
    assert greedy.settings == {"temperature": 0.0}
    export = llamafactory.convert(
        {**model, "adapter_name_or_path": "a", "export_dir": "out", "export_size": 5}
    )
    assert export.kind == "export"
    assert export.recipe is not None
    assert {"export_dir", "export_size"} <= set(export.not_applicable)
    predict = llamafactory.convert(
        {**model, "do_predict": True, "predict_with_generate": True, "eval_dataset": "poems", "stage": "sft"}
    )
    assert predict.kind == "predict"
    assert (predict.checked().data.source, predict.checked().data.subset) == ("data", "poems")
    assert llamafactory.convert(BASE).kind == "train"


def test_reply_settings_fit_the_engine() -> None:
    from ftkit.chat import Sampling

    settings_of = llamafactory.convert(
        {
            "model_name_or_path": "m",
            "temperature": 0.2,
            "top_k": 5,
            "top_p": "0.5",
            "max_new_tokens": 9,
            "repetition_penalty": 1.1,
        }
    ).settings
    assert Sampling(**settings_of).top_k == 5
    assert len(settings_of) == 5


# And back


def test_a_recipe_that_can_be_said_comes_back_the_same() -> None:
    recipe = llamafactory.loads(FULL).checked()
    written = llamafactory.to_yaml(recipe)
    assert written.left_out == {}
    assert llamafactory.loads(str(written)).checked() == recipe


@pytest.mark.parametrize("method", ["lora", "full", "freeze", "oft"])
@pytest.mark.parametrize("objective", ["sft", "pretraining", "dpo", "orpo", "simpo", "kto", "reward"])
def test_methods_and_objectives_come_back(objective: str, method: str) -> None:
    kinds = {"objective": objective, "method": method}
    if any(places.missing(f"{section}.type", {}, kind) for section, kind in kinds.items()):
        pytest.skip("not in this version")
    recipe = ftkit.Recipe(
        model="org/name",
        data={"source": "rows", "subset": "poems", "max_length": 512, "too_long": "keep_start"},
        objective=objective,
        method=method,
        output={"folder": "saves", "name": "x"},
    )
    written = llamafactory.to_yaml(recipe)
    again = llamafactory.loads(str(written)).checked()
    assert (again.objective.type, again.method.type) == (objective, method)
    assert again.training == recipe.training
    assert "objective.type" not in written.left_out


def test_what_cannot_be_said_is_named() -> None:
    recipe = ftkit.Recipe(data="starter:extract", training={"batch_tokens": 512})
    left = llamafactory.to_yaml(recipe).left_out
    assert "dataset_info.json" in left["data.source"]
    assert "training.batch_tokens" in left
    assert "training.learning_rate" not in left


# Whatever comes


_BOMB = "a: &a [b,b,b,b,b]\n" + "".join(
    f"{new}: &{new} [*{old},*{old},*{old},*{old},*{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
_plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
_values = st.recursive(
    _plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(max_examples=200, deadline=None)
@for_all(st.dictionaries(st.sampled_from(sorted(table())), _values, max_size=12))
def test_no_value_of_a_known_key_raises_anything_else(keys: dict[str, Any]) -> None:
    found = llamafactory.convert(keys)
    json.dumps(found.to_dict())
    assert (found.recipe is None) == bool(found.errors)
    for key in keys:
        assert key in found.to_dict()["mapped"] or key in found.not_applicable or found.errors


@settings(max_examples=60, deadline=None)
@for_all(st.dictionaries(st.sampled_from(sorted(table())), _values, max_size=6))
def test_nothing_breaks_beside_a_file_that_is_right(keys: dict[str, Any]) -> None:
    found = llamafactory.convert({**BASE, **keys})
    if found.recipe is not None:
        llamafactory.to_yaml(found.recipe)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n- b",
        "a: [",
        "{",
        "a: &a [*a]",
        "lora_target: &x [a, *x]",
        "learning_rate: " + "9" * 5000,
        "? [a, b]\n: c",
        "!!python/object/apply:os.system ['true']",
        "\x00",
        "1: 2",
        _BOMB,
    ],
)
def test_a_broken_text_is_an_explained_error(text: str) -> None:
    try:
        found = llamafactory.loads(text)
    except FtkitError:
        return
    assert found.errors


def test_a_date_or_a_bomb_is_shown_in_a_short_line() -> None:
    bomb: Any = "x"
    for _ in range(40):
        bomb = [bomb, bomb, bomb]
    found = _convert(lora_rank=bomb, dataset=datetime.date(2026, 1, 1))
    assert all(len(str(problem)) < 400 for problem in found.errors)


# Where a Recipe is expected


def test_a_recipe_file_that_is_llamafactorys_says_so(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text(FULL)
    with pytest.raises(RecipeError, match="file of LLaMA-Factory") as caught:
        ftkit.Recipe.from_yaml(tmp_path / "sft.yaml")
    assert "ftkit import" in caught.value.advice
    with pytest.raises(RecipeError, match="did you mean 'training'"):
        ftkit.Recipe.from_yaml("trainin: {}\n")
