"""Unsloth's CPU mode as a contender of train_speed, for an environment without ftkit.

Only Unsloth's documented calls are used.
"""

from __future__ import annotations

import unsloth  # type: ignore[import-not-found]  # isort: skip

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq
from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

from tests.benchmarks.contenders import ALPHA, RANK, SEED, arguments, timed

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def run_unsloth(settings: dict[str, Any], folder: str) -> dict[str, Any]:
    """Unsloth's model and adapter under TRL's trainer, which Unsloth patches, on the same tokens."""
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        settings["model_path"],
        max_seq_length=4096,
        dtype=torch.bfloat16 if settings["bf16"] else torch.float32,
        load_in_4bit=False,
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0,
        bias="none",
        target_modules=LAYERS,
        use_gradient_checkpointing="unsloth",
        random_state=SEED,
    )
    stored = np.load(settings["rows"])
    starts = np.concatenate([[0], stored["ends"][:-1]])
    rows = [
        {
            "input_ids": stored["ids"][start:end].tolist(),
            "attention_mask": [1] * int(end - start),
            "labels": np.where(stored["mask"][start:end], stored["ids"][start:end], -100).tolist(),
        }
        for start, end in zip(starts, stored["ends"], strict=True)
    ]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            **arguments(settings, folder),
            optim="adamw_torch",
            bf16=settings["bf16"],
            max_length=4096,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100),
    )
    return timed(trainer, settings)
