"""Combinations that cannot be: found before anything is loaded, with the keys that do not go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ftkit.recipe.llamafactory.given import Given
from ftkit.recipe.llamafactory.report import Problem


@dataclass(frozen=True)
class Check:
    """Keys that do not go together, when, and what to do."""

    keys: tuple[str, ...]
    cannot: Callable[[Given], object]
    message: str
    advice: str


def problems(given: Given) -> Iterator[Problem]:
    """Every check that fails."""
    for check in CHECKS:
        if check.cannot(given):
            yield Problem(check.keys, check.message, check.advice)


def _several(given: Given, *keys: str) -> bool:
    return sum(bool(given.values.get(key)) for key in keys) > 1


def _adapters(given: Given) -> bool:
    return bool(given.values.get("adapter_name_or_path"))


def _trains(given: Given) -> bool:
    return given.kind == "train"


CHECKS = (
    Check(
        ("model_name_or_path",),
        lambda given: not given.values.get("model_name_or_path"),
        "The file names no model.",
        "Write model_name_or_path: organisation/model.",
    ),
    Check(
        ("dataset", "do_train"),
        lambda given: _trains(given) and not given.values.get("dataset"),
        "A file for training names no dataset.",
        "Write dataset: NAME, one of dataset_info.json.",
    ),
    Check(
        ("do_predict", "eval_dataset"),
        lambda given: (
            given.kind == "predict"
            and not given.values.get("task")
            and not given.values.get("eval_dataset")
            and not given.values.get("val_size")
        ),
        "A file for predictions names no rows to answer.",
        "Write eval_dataset: NAME, or val_size beside dataset.",
    ),
    Check(
        ("val_size", "eval_dataset"),
        lambda given: given.values.get("val_size") and given.values.get("eval_dataset"),
        "Held-out rows come from a share of the dataset or from a dataset of their own, not from both.",
        "Leave one of them out.",
    ),
    Check(
        ("val_size", "dataset"),
        lambda given: given.values.get("val_size") and not given.values.get("dataset"),
        "A share is held out of a dataset, and none is named.",
        "Leave val_size out, or name a dataset.",
    ),
    Check(
        ("interleave_probs", "mix_strategy"),
        lambda given: given.values.get("interleave_probs") and given.get("mix_strategy") == "concat",
        "Shares have no effect where all rows of each dataset are taken (concat).",
        "Write mix_strategy: interleave_under or interleave_over.",
    ),
    Check(
        ("streaming", "max_samples"),
        lambda given: given.values.get("streaming") and given.values.get("max_samples"),
        "A stream has no first rows to be counted.",
        "Leave streaming out: ftkit reads large data from disk by itself.",
    ),
    Check(
        ("streaming", "val_size"),
        lambda given: given.values.get("streaming") and 0 < given.get("val_size") < 1,
        "A share of a stream is not known before its end.",
        "Leave streaming out: ftkit reads large data from disk by itself.",
    ),
    Check(
        ("streaming", "max_steps"),
        lambda given: _trains(given) and given.values.get("streaming") and given.get("max_steps") <= 0,
        "A stream has no epochs: how many steps are trained?",
        "Write max_steps, or leave streaming out.",
    ),
    Check(
        ("mask_history", "train_on_prompt"),
        lambda given: _several(given, "mask_history", "train_on_prompt"),
        "One learns the last reply only, the other every token.",
        "Keep one of them.",
    ),
    *(
        Check(
            ("stage", key),
            lambda given, key=key: given.get("stage") != "sft" and given.values.get(key),  # type: ignore[misc]
            f"{key} is for stage sft.",
            "Leave it out, or write stage: sft.",
        )
        for key in ("train_on_prompt", "mask_history", "neat_packing", "predict_with_generate")
    ),
    Check(
        ("use_dft_loss", "use_eaft_loss", "use_asft_loss"),
        lambda given: _several(given, "use_dft_loss", "use_eaft_loss", "use_asft_loss"),
        "One loss is learned at a time.",
        "Keep one of them.",
    ),
    Check(
        ("stage", "reward_model"),
        lambda given: given.get("stage") == "ppo" and not given.values.get("reward_model"),
        "Learning from a reward needs a reward model.",
        "Write reward_model: FOLDER.",
    ),
    *(
        Check(
            ("reward_model_type", "finetuning_type"),
            lambda given, kind=kind: (  # type: ignore[misc]
                given.get("stage") == "ppo"
                and given.values.get("reward_model_type") == kind
                and given.method != kind
            ),
            f"A reward model that is a {kind} adapter lies on a model trained with {kind}.",
            "Write reward_model_type: full, or the same for both.",
        )
        for kind in ("lora", "oft")
    ),
    Check(
        ("dpo_label_smoothing", "pref_loss"),
        lambda given: (
            given.get("stage") == "dpo"
            and given.get("pref_loss") != "sigmoid"
            and given.get("dpo_label_smoothing") > 1e-6
        ),
        "Labels are smoothed in the sigmoid loss only.",
        "Write pref_loss: sigmoid, or leave dpo_label_smoothing out.",
    ),
    Check(
        ("use_llama_pro", "finetuning_type"),
        lambda given: given.values.get("use_llama_pro") and given.method in ("full", "oft"),
        "Only the added layers are trained, not the whole model.",
        "Write finetuning_type: freeze.",
    ),
    *(
        Check(
            (key, "finetuning_type"),
            lambda given, key=key: given.values.get(key) and given.method in ("lora", "oft"),  # type: ignore[misc]
            f"{key} saves memory over the gradients of whole weights, which adapters do not have.",
            "Write finetuning_type: full, or another optimizer.",
        )
        for key in ("use_galore", "use_apollo", "use_badam")
    ),
    Check(
        ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "adafactor"),
        lambda given: _several(
            given, "use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "adafactor"
        ),
        "There is one optimizer at a time.",
        "Keep one of them.",
    ),
    Check(
        ("pissa_init", "stage"),
        lambda given: (
            given.values.get("pissa_init") and given.objective in ("dpo", "kto", "rloo") and _trains(given)
        ),
        "PiSSA changes the base weights, so that the model without its adapter is no reference.",
        "Leave pissa_init out, or choose a loss without a reference (orpo, simpo).",
    ),
    *(
        Check(
            (key, "finetuning_type"),
            lambda given, key=key: given.values.get(key) and given.method != "lora",  # type: ignore[misc]
            f"{key} is a kind of LoRA.",
            "Write finetuning_type: lora, or leave it out.",
        )
        for key in ("loraplus_lr_ratio", "use_rslora", "use_dora", "pissa_init")
    ),
    Check(
        ("adapter_name_or_path", "finetuning_type"),
        lambda given: _adapters(given) and given.method not in ("lora", "oft"),
        "An adapter goes on with the method that it was made with.",
        "Write finetuning_type: lora, or leave the adapter out.",
    ),
    Check(
        ("quantization_bit", "finetuning_type"),
        lambda given: given.values.get("quantization_bit") and given.method not in ("lora", "oft"),
        "Quantised weights cannot be trained themselves.",
        "Write finetuning_type: lora.",
    ),
    Check(
        ("quantization_bit", "pissa_init"),
        lambda given: given.values.get("quantization_bit") and given.values.get("pissa_init"),
        "PiSSA decomposes weights that are not quantised.",
        "Leave one of them out.",
    ),
    Check(
        ("quantization_bit", "resize_vocab"),
        lambda given: given.values.get("quantization_bit") and given.values.get("resize_vocab"),
        "The vocabulary of a quantised model cannot grow.",
        "Leave one of them out.",
    ),
    Check(
        ("quantization_bit", "create_new_adapter"),
        lambda given: (
            given.values.get("quantization_bit")
            and _adapters(given)
            and given.values.get("create_new_adapter")
        ),
        "An adapter cannot be merged into quantised weights to begin a new one.",
        "Leave create_new_adapter out.",
    ),
    Check(
        ("quantization_bit", "fp8"),
        lambda given: given.values.get("quantization_bit") and given.values.get("fp8"),
        "Weights are in one precision.",
        "Leave one of them out.",
    ),
    Check(
        ("quantization_device_map", "do_train"),
        lambda given: _trains(given) and given.values.get("quantization_device_map"),
        "A model that is spread over devices is not trained.",
        "Leave quantization_device_map out.",
    ),
    Check(
        ("stage", "load_best_model_at_end"),
        lambda given: given.get("stage") in ("rm", "ppo") and given.values.get("load_best_model_at_end"),
        "The stages rm and ppo do not go back to their best checkpoint.",
        "Leave load_best_model_at_end out.",
    ),
    Check(
        ("load_best_model_at_end", "eval_strategy"),
        lambda given: (
            given.values.get("load_best_model_at_end")
            and given.get("eval_strategy") == given.get("evaluation_strategy") == "no"
        ),
        "The best checkpoint is known by its evaluation, and there is none.",
        "Write eval_strategy: steps.",
    ),
    Check(
        ("eval_strategy", "val_size", "eval_dataset"),
        lambda given: (
            _trains(given)
            and (given.get("eval_strategy") != "no" or given.get("evaluation_strategy") != "no")
            and not given.values.get("val_size")
            and not given.values.get("eval_dataset")
        ),
        "There are no rows to evaluate on.",
        "Write val_size: 0.1, or name an eval_dataset.",
    ),
    Check(
        ("stage", "do_train"),
        lambda given: given.get("stage") == "ppo" and given.values.get("do_train") is False,
        "The stage ppo is training and nothing else.",
        "Write do_train: true.",
    ),
    Check(
        ("stage", "do_predict", "predict_with_generate"),
        lambda given: (
            given.get("stage") == "sft"
            and given.values.get("do_predict")
            and not given.values.get("predict_with_generate")
        ),
        "Predictions are replies, and none are to be made.",
        "Write predict_with_generate: true.",
    ),
    Check(
        ("predict_with_generate", "compute_accuracy"),
        lambda given: _several(given, "predict_with_generate", "compute_accuracy"),
        "Either replies are made or single tokens are scored.",
        "Keep one of them.",
    ),
    Check(
        ("deepspeed", "fsdp_config"),
        lambda given: _several(given, "deepspeed", "fsdp_config"),
        "A model is split in one way.",
        "Keep one of them.",
    ),
    Check(
        ("deepspeed", "use_galore", "use_apollo"),
        lambda given: (
            given.values.get("deepspeed")
            and (given.values.get("use_galore") or given.values.get("use_apollo"))
        ),
        "GaLore and APOLLO need the gradients of whole weights on one device.",
        "Leave one of them out.",
    ),
    Check(
        ("export_quantization_bit", "export_quantization_dataset"),
        lambda given: (
            given.values.get("export_quantization_bit")
            and not given.values.get("export_quantization_dataset")
        ),
        "Quantising while exporting needs rows to measure on.",
        "Name an export_quantization_dataset.",
    ),
    Check(
        ("export_quantization_bit", "adapter_name_or_path"),
        lambda given: given.values.get("export_quantization_bit") and _adapters(given),
        "An adapter is merged before a model is quantised.",
        "Export twice: merge first, then quantise the result.",
    ),
    Check(
        ("split_special_tokens", "use_fast_tokenizer"),
        lambda given: given.values.get("split_special_tokens") and given.get("use_fast_tokenizer"),
        "Only slow tokenizers cut control tokens.",
        "Leave split_special_tokens out.",
    ),
    *(
        Check(
            (f"{what}_max_pixels", f"{what}_min_pixels"),
            lambda given, what=what: (  # type: ignore[misc]
                given.get(f"{what}_max_pixels") < given.get(f"{what}_min_pixels")
            ),
            "The most is less than the least.",
            "Leave both out: ftkit trains on text.",
        )
        for what in ("image", "video")
    ),
    Check(
        ("use_unsloth", "reward_model_type"),
        lambda given: (
            given.get("stage") == "ppo"
            and given.values.get("use_unsloth")
            and given.values.get("reward_model_type") == "lora"
        ),
        "Unsloth has no reward model that is an adapter.",
        "Leave use_unsloth out.",
    ),
    Check(
        ("stage", "shift_attn"),
        lambda given: given.get("stage") == "ppo" and given.values.get("shift_attn"),
        "The stage ppo does not go with shifted attention.",
        "Leave shift_attn out.",
    ),
)
