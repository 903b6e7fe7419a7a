"""The contenders of train_speed, each run in a process of its own: the same weights, rows and order."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RANK, ALPHA, RATE, SEED = 8, 16, 2e-4, 7
UNSLOTH = Path("bench/unsloth")
"""The environment of Unsloth, which wants other versions than ftkit's."""
_UNSLOTH_NEEDS = (
    "transformers<=5.17", "trl<=1.15", "datasets<5", "peft", "accelerate", "psutil", "pillow", "gguf",
)  # fmt: skip
_UNSLOTH = ("unsloth==2026.10.9", "unsloth_zoo==2026.10.9")


@dataclass(frozen=True)
class Contender:
    """A name, and what it is."""

    name: str
    about: str


CONTENDERS = [
    Contender("hf-fp32", "transformers Trainer, fp32"),
    Contender("hf-bf16", "transformers Trainer, bf16 autocast"),
    Contender("hf-bf16-checkpointing", "transformers Trainer, bf16 autocast, gradient checkpointing"),
    Contender("trl", "TRL SFTTrainer, defaults on the CPU; fp32 where the processor has no bf16"),
    Contender("unsloth", "Unsloth on the CPU, bf16; fp32 where the processor has no bf16"),
    Contender("ftkit", "ftkit"),
]
WITHOUT = "ftkit-without-"
"""Before the name of a piece of `compute.fast`: ftkit with that one off."""


def available(method: str) -> tuple[list[Contender], list[str]]:
    """Those that can run here, and why the others cannot."""
    from ftkit.models import probe

    missing = {}
    if not probe("cpu").native_bf16:
        missing |= dict.fromkeys(
            ("hf-bf16", "hf-bf16-checkpointing"),
            "this processor has no bf16 instructions, and imitates them: a step takes minutes",
        )
    if importlib.util.find_spec("trl") is None:
        missing["trl"] = "TRL is not installed (pip install trl)"
    reason = _unsloth_environment() if method == "lora" else "it is measured with LoRA only"
    if reason:
        missing["unsloth"] = reason
    return (
        [one for one in CONTENDERS if one.name not in missing],
        [f"{name} takes no part: {why}" for name, why in missing.items()],
    )


def _unsloth_environment() -> str:
    """Make Unsloth's environment where it is not there yet; why it cannot be, or nothing."""
    python = UNSLOTH / "bin" / "python"
    if not (UNSLOTH / ".made").exists():
        print(f"Making an environment for Unsloth in {UNSLOTH}", flush=True)
        torch = f"torch=={importlib.metadata.version('torch').partition('+')[0]}"
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        index = os.environ.get("TORCH_INDEX_URL")
        for command in (
            [sys.executable, "-m", "venv", str(UNSLOTH)],
            [*pip, *(["--index-url", index] if index else []), torch],
            [*pip, *_UNSLOTH_NEEDS],
            [*pip, "--no-deps", *_UNSLOTH],  # its own pins would pull CUDA packages
            [str(python), "-c", "import unsloth"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"its environment cannot be made ({done.stderr.strip().splitlines()[-1]:.200})"
        (UNSLOTH / ".made").touch()
    return ""


def recipe(settings: dict[str, Any], folder: str) -> Any:
    """What every contender carries out."""
    import ftkit

    method = {"type": "lora", "rank": RANK, "alpha": ALPHA} if settings["method"] == "lora" else "full"
    return ftkit.Recipe(
        model=settings["model"],
        data={
            "source": settings["text"],
            "held_out_fraction": 0.0,
            "max_length": 4096,
            "template": settings.get("template"),
        },
        method=method,
        training={
            "max_steps": settings["steps"],
            "batch_size": settings["batch"],
            "learning_rate": settings["rate"],
            "lr_scheduler": "constant",
            "warmup": 0.0,
            "evals": 0,
            "checkpoints": 0,
            "seed": SEED,
        },
        compute=settings["compute"],
        output={"folder": folder, "name": "bench"},
    )


def write_rows(folder: Path, settings: dict[str, Any], tokens: int) -> float:
    """Conversations of about `tokens` tokens, made of the persona set's turns; returns their mean length.

    They are written as text, and as token ids in the order in which ftkit learns them; `settings` gets the
    paths of both, and of the model.
    """
    import ftkit
    from ftkit.data import Template, encode_all, load
    from ftkit.data.batching import Batches

    count = settings["batch"] * settings["steps"]
    model = ftkit.Recipe(model=settings["model"]).model
    tokenizer = ftkit.models.load_tokenizer(model)
    template = Template(tokenizer, template=settings.get("template"))
    turns = [m for one in load("starter:persona").train for m in one.messages if m.role != "system"]  # type: ignore[union-attr]
    path = folder / "rows.jsonl"
    at = 0
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            chosen: list[Any] = []
            while len(template.prompt_ids(chosen)) < tokens if chosen else True:
                chosen += [turns[at % len(turns)], turns[(at + 1) % len(turns)]]
                at += 2
            messages = [{"role": m.role, "content": m.content} for m in chosen]
            messages[0]["content"] += f" ({number})"
            file.write(json.dumps({"messages": messages}) + "\n")
    settings["text"] = str(path)
    wanted = recipe(settings, str(folder))
    rows = encode_all(
        load(wanted.data).train, template, objective=wanted.objective, max_length=4096, too_long="error"
    ).rows
    order = Batches([len(row.ids) for row in rows], batch_size=settings["batch"], seed=SEED).epoch(0)
    rows = [rows[place] for batch in order for place in batch]
    settings["rows"] = str(folder / "rows.npz")
    settings["model_path"] = str(ftkit.models.resolve(model).path)
    np.savez(
        settings["rows"],
        ids=np.concatenate([row.ids for row in rows]),
        mask=np.concatenate([row.mask for row in rows]),
        ends=np.cumsum([len(row.ids) for row in rows]),
    )
    return float(np.mean([len(row.ids) for row in rows]))


def _rows(settings: dict[str, Any]) -> list[Any]:
    from ftkit.data.token_store import EncodedRows

    stored = np.load(settings["rows"])
    ends = stored["ends"]
    return list(EncodedRows(stored["ids"], stored["mask"], ends, np.arange(len(ends))))


def run_ftkit(settings: dict[str, Any], folder: str) -> dict[str, Any]:
    """ftkit as a user runs it."""
    import ftkit

    run = ftkit.start(recipe(settings, folder)).wait()
    steps = [event for event in run.events() if event["kind"] == "train"]
    seconds = steps[-1]["elapsed"] - steps[0]["elapsed"]
    speed = (steps[-1]["tokens"] - steps[0]["tokens"]) / seconds
    return {"losses": [step["loss"] for step in steps], "tokens_per_second": speed}


def _lora(settings: dict[str, Any]) -> Any:
    from peft import LoraConfig

    if settings["method"] != "lora":
        return None
    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")


def arguments(settings: dict[str, Any], folder: str) -> dict[str, Any]:
    """What all of transformers' trainers are told."""
    return {
        "output_dir": folder,
        "max_steps": settings["steps"],
        "per_device_train_batch_size": settings["batch"],
        "learning_rate": settings["rate"],
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "use_cpu": True,
        "seed": SEED,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def timed(trainer: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Train; tokens a second over the steps after the first."""
    from transformers import TrainerCallback

    moments: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append(time.perf_counter())

        def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    trainer.add_callback(Clock())
    trainer.train()
    lengths = np.diff(np.load(settings["rows"])["ends"], prepend=0)
    tokens = int(lengths[settings["batch"] : settings["batch"] * settings["steps"]].sum())
    return {"losses": losses, "tokens_per_second": tokens / (moments[-1] - moments[0])}


def run_trainer(settings: dict[str, Any], folder: str, *, bf16: bool, recompute: bool) -> dict[str, Any]:
    """transformers' own Trainer and loss, PEFT's own LoRA, padded rows: what a user writes by hand."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

    from ftkit.data.batches import PaddedCollator

    tokenizer = AutoTokenizer.from_pretrained(settings["model_path"])
    model = AutoModelForCausalLM.from_pretrained(settings["model_path"], dtype=torch.float32)
    set_seed(SEED)
    lora = _lora(settings)
    if lora is not None:
        model = get_peft_model(model, lora)
    if recompute:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    chosen = TrainingArguments(**arguments(settings, folder), bf16=bf16, remove_unused_columns=False)
    # the data loader works in this process and fetches a batch only when the step before has ended
    trainer = Trainer(
        model=model,
        args=chosen,
        data_collator=PaddedCollator(tokenizer.pad_token_id),
        train_dataset=_rows(settings),  # type: ignore[arg-type]
    )
    return timed(trainer, settings)


def run_trl(settings: dict[str, Any], folder: str) -> dict[str, Any]:
    """TRL's SFTTrainer on the same tokens; its defaults: bf16 autocast (where the processor has it) and
    gradient checkpointing."""
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    rows = [
        {"input_ids": row.ids.tolist(), "labels": np.where(row.mask, row.ids, -100).tolist()}
        for row in _rows(settings)
    ]
    set_seed(SEED)
    trainer = trl.SFTTrainer(
        AutoModelForCausalLM.from_pretrained(settings["model_path"], dtype=torch.float32),
        trl.SFTConfig(**arguments(settings, folder), bf16=settings["bf16"], max_length=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(settings["model_path"]),
        peft_config=_lora(settings),
    )
    return timed(trainer, settings)


def measure(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One contender in this process."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "ftkit":
            result = run_ftkit(settings, folder)
        elif name.startswith(WITHOUT):
            compute = {**settings["compute"], "fast": {name.removeprefix(WITHOUT): False}}
            result = run_ftkit({**settings, "compute": compute}, folder)
        elif name == "trl":
            result = run_trl(settings, folder)
        elif name == "unsloth":
            from tests.benchmarks.unsloth_contender import run_unsloth

            result = run_unsloth(settings, folder)
        else:
            result = run_trainer(settings, folder, bf16="bf16" in name, recompute="checkpointing" in name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {**result, "peak_gb": peak}


def in_a_process(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One contender in a process of its own."""
    python = str(UNSLOTH / "bin" / "python") if name == "unsloth" else sys.executable
    command = [python, "-m", "tests.benchmarks.contenders", name, json.dumps(settings)]
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | quiet)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], json.loads(sys.argv[2]))))
