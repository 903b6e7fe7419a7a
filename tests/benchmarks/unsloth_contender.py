"""Unsloth's CPU mode as a contender of train_speed: a script of its own, for an environment without ftkit.

    PYTHON unsloth_contender.py '{"model_path": ..., "rows": ..., "steps": 6, "batch": 8, ...}'

The rows come as token ids with their mask, in the order in which they are learned; what is printed last is a
JSON object like those of the other contenders. Only Unsloth's documented calls are used.
"""

from __future__ import annotations

import unsloth  # type: ignore[import-not-found]  # isort: skip

import json
import resource
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, TrainerCallback
from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main(settings: dict[str, Any]) -> dict[str, Any]:
    """Train, and say how fast."""
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        settings["model_path"], max_seq_length=4096, dtype=torch.bfloat16, load_in_4bit=False
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=0,
        bias="none",
        target_modules=LAYERS,
        use_gradient_checkpointing="unsloth",
        random_state=settings["seed"],
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
    lengths = np.diff(stored["ends"], prepend=0)
    moments: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append(time.perf_counter())

        def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            max_steps=settings["steps"],
            per_device_train_batch_size=settings["batch"],
            learning_rate=settings["rate"],
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            weight_decay=0.0,
            optim="adamw_torch",
            bf16=True,
            use_cpu=True,
            seed=settings["seed"],
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            max_length=4096,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100),
            callbacks=[Clock()],
        )
        trainer.train()
    after_first = int(lengths[settings["batch"] : settings["batch"] * settings["steps"]].sum())
    return {
        "losses": losses,
        "tokens_per_second": after_first / (moments[-1] - moments[0]),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
