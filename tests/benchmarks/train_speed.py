"""Speed and memory of LoRA fine-tuning: ftkit beside plain Hugging Face Trainer, same rows, same order.

    python -m tests.benchmarks.train_speed [--rounds 3] [--steps 6] [--batch 8] [--tokens 220]

Each contender runs in a process of its own, one after the other, several rounds, so that a noisy machine hits
all of them alike. Reported are tokens a second over the steps after the first (padding does not count), the
peak resident memory of the process, the ratio of each round, and the largest difference of the losses, step
by step, from Trainer's in fp32 and in bf16: a speed-up whose losses disagree with both is none. In bf16 the
first steps learn a little slower than in fp32, ftkit's as well as Trainer's: the output of a LoRA layer is
rounded to a grid on which the base layer's output lies already, so the smallest updates are lost.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONTENDERS = {
    "hf-fp32": "transformers Trainer, fp32",
    "hf-bf16": "transformers Trainer, bf16 autocast",
    "hf-bf16-checkpointing": "transformers Trainer, bf16 autocast, gradient checkpointing",
    "ftkit": "ftkit",
}
REFERENCES = ("hf-fp32", "hf-bf16")
AGREEMENT = 0.01
"""Nats between the losses of two contenders of one precision that do the same."""
RANK, ALPHA, RATE, SEED = 8, 16, 2e-4, 7


def recipe(settings: dict[str, Any], folder: str) -> Any:
    """What every contender carries out."""
    import ftkit

    return ftkit.Recipe(
        model=settings["model"],
        data={"source": settings["rows"], "held_out_fraction": 0.0, "max_length": 4096},
        method={"type": "lora", "rank": RANK, "alpha": ALPHA},
        training={
            "max_steps": settings["steps"],
            "batch_size": settings["batch"],
            "learning_rate": RATE,
            "lr_scheduler": "constant",
            "warmup": 0.0,
            "evals": 0,
            "checkpoints": 0,
            "seed": SEED,
        },
        output={"folder": folder, "name": "bench"},
    )


def write_rows(path: Path, model: str, count: int, tokens: int) -> float:
    """Conversations of about `tokens` tokens, made of the persona set's turns; returns their mean length."""
    from transformers import AutoTokenizer

    import ftkit
    from ftkit.data import Template

    tokenizer = AutoTokenizer.from_pretrained(ftkit.models.resolve(ftkit.Recipe(model=model).model).path)
    template = Template(tokenizer)
    examples = ftkit.data.load(ftkit.Recipe(data="starter:persona").data).train
    turns = [m for example in examples for m in example.messages if m.role in ("user", "assistant")]
    lengths, at = [], 0
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            chosen: list[Any] = []
            while len(template.prompt_ids(chosen)) < tokens if chosen else True:
                chosen += [turns[at % len(turns)], turns[(at + 1) % len(turns)]]
                at += 2
            lengths.append(len(template.prompt_ids(chosen)))
            messages = [{"role": m.role, "content": m.content} for m in chosen]
            file.write(json.dumps({"messages": messages}) + "\n")
    return statistics.mean(lengths)


def run_ftkit(settings: dict[str, Any], folder: str) -> dict[str, Any]:
    """ftkit as a user runs it."""
    import ftkit

    run = ftkit.start(recipe(settings, folder)).wait()
    steps = [event for event in run.events() if event["kind"] == "train"]
    seconds = steps[-1]["elapsed"] - steps[0]["elapsed"]
    speed = (steps[-1]["tokens"] - steps[0]["tokens"]) / seconds
    return {"losses": [step["loss"] for step in steps], "tokens_per_second": speed}


def run_trainer(settings: dict[str, Any], folder: str, *, bf16: bool, recompute: bool) -> dict[str, Any]:
    """transformers' own Trainer and loss, PEFT's own LoRA, padded rows: what a user writes by hand."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

    import ftkit
    from ftkit.data import Template, encode_all, load
    from ftkit.data.batches import PaddedCollator
    from ftkit.data.batching import Batches
    from ftkit.models import resolve

    wanted = recipe(settings, folder)
    path = resolve(wanted.model).path
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    rows = encode_all(
        load(wanted.data).train,
        Template(tokenizer),
        objective=wanted.objective,
        max_length=4096,
        too_long="error",
    ).rows
    order = Batches([len(row.ids) for row in rows], batch_size=settings["batch"], seed=SEED).epoch(0)
    rows = [rows[place] for batch in order for place in batch]
    set_seed(SEED)
    settings_of_lora = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, settings_of_lora)
    if recompute:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    tokens = [0]
    moments: list[tuple[float, int]] = []
    losses: list[float] = []
    collate = PaddedCollator(tokenizer.pad_token_id)

    def counted(batch: Any) -> Any:
        made = collate(batch)
        tokens[0] += int(made["attention_mask"].sum())
        return made

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append((time.perf_counter(), tokens[0]))

        def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["batch"],
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_grad_norm=ftkit.Recipe().training.max_grad_norm,
        weight_decay=0.0,
        bf16=bf16,
        use_cpu=True,
        seed=SEED,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    # the data loader works in this process and fetches a batch only when the step before has ended
    trainer = Trainer(
        model=model, args=arguments, data_collator=counted, train_dataset=rows, callbacks=[Clock()]
    )
    trainer.train()
    (first, before), (last, after) = moments[0], moments[-1]
    return {"losses": losses, "tokens_per_second": (after - before) / (last - first)}


def measure(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One contender in this process."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "ftkit":
            result = run_ftkit(settings, folder)
        else:
            result = run_trainer(settings, folder, bf16="bf16" in name, recompute="checkpointing" in name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {**result, "peak_gb": peak}


def in_a_process(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One contender in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.train_speed", "--child", name, json.dumps(settings)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def spread(values: list[float]) -> str:
    """Median, with the smallest and the largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def largest_gap(rounds: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """Largest difference of the losses, over all steps and rounds, in nats."""
    steps = [
        zip(one["losses"], other["losses"], strict=True) for one, other in zip(rounds, others, strict=True)
    ]
    return max(abs(ours - theirs) for pairs in steps for ours, theirs in pairs)


def report(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A table, and a line with ftkit's ratios to each other contender."""
    head = "".join(f"{'from ' + name:>14}" for name in REFERENCES)
    lines = [f"{'contender':24}{'tokens/s':>18}{'peak GB':>9}   loss{head}"]
    for name, rounds in results.items():
        speeds = [one["tokens_per_second"] for one in rounds]
        peak = max(one["peak_gb"] for one in rounds)
        gaps = [largest_gap(rounds, results[reference]) for reference in REFERENCES]
        shown = f"{statistics.median(speeds):.0f} ({min(speeds):.0f}-{max(speeds):.0f})"
        agrees = "" if min(gaps) <= AGREEMENT else "   DISAGREES WITH BOTH"
        lines.append(
            f"{name:24}{shown:>18}{peak:9.2f}       " + "".join(f"{gap:14.4f}" for gap in gaps) + agrees
        )
    for name, rounds in results.items():
        if name == "ftkit":
            continue
        pairs = list(zip(results["ftkit"], rounds, strict=True))
        speed = spread([ours["tokens_per_second"] / theirs["tokens_per_second"] for ours, theirs in pairs])
        memory = spread([ours["peak_gb"] / theirs["peak_gb"] for ours, theirs in pairs])
        lines.append(f"bench: ftkit/{name} speed {speed} memory {memory}")
    return lines


def main() -> None:
    """Measure and print; the figures also go to bench/latest.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=220)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--child", nargs=2, metavar=("NAME", "SETTINGS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child[0], json.loads(given.child[1]))))
        return
    with tempfile.TemporaryDirectory() as work:
        rows = Path(work) / "rows.jsonl"
        mean = write_rows(rows, given.model, given.batch * given.steps, given.tokens)
        settings = {"model": given.model, "rows": str(rows), "steps": given.steps, "batch": given.batch}
        print(f"{given.model}, {given.batch} conversations of {mean:.0f} tokens a step, LoRA r={RANK}")
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
        for turn in range(given.rounds):
            for name in CONTENDERS:
                results[name].append(in_a_process(name, settings))
                latest = results[name][-1]
                print(f"  round {turn + 1}: {name} {latest['tokens_per_second']:.0f} tokens/s", flush=True)
    print("\n".join(report(results)))
    out = Path("bench/latest.json")
    out.parent.mkdir(exist_ok=True)
    out.write_text(
        json.dumps({"settings": vars(given) | {"mean_tokens": mean}, "results": results}, indent=1)
    )


if __name__ == "__main__":
    main()
