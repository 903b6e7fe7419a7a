"""The memory planner beside what runs really need: estimates over measured peaks, on a CPU.

    python -m tests.benchmarks.memory [--models llama,qwen2,gemma3] [--batches 1,8] [--lengths 120,600]
                                      [--methods lora,full] [--levels off,attention,mlp,layers]

Small models of random weights in the shapes of real ones, stored in bfloat16 as those are; each point is a
run of ftkit in a process of its own, and its peak is that process's largest resident memory.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (
        "LlamaConfig",
        {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 16, "num_attention_heads": 8,
         "num_key_value_heads": 4, "vocab_size": 32_000, "tie_word_embeddings": True},
    ),
    "qwen2": (
        "Qwen2Config",
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 10, "num_attention_heads": 12,
         "num_key_value_heads": 2, "vocab_size": 50_000, "tie_word_embeddings": False},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 4,
         "num_key_value_heads": 1, "head_dim": 128, "vocab_size": 200_000, "sliding_window": 256},
    ),
}  # fmt: skip
"""Configurations by name: many layers, an untied head, a large vocabulary with sliding windows."""


@dataclass(frozen=True)
class Point:
    """One run."""

    model: str
    batch: int
    tokens: int
    method: str = "lora"
    level: str = "off"

    def __str__(self) -> str:
        return f"{self.model:8}{self.batch:3} x {self.tokens:<5}{self.method:5}{self.level:10}"


def make_model(folder: Path, name: str) -> Path:
    """Save a model of random weights, with the tests' own tokenizer."""
    import torch
    import transformers

    from tests.conftest import CHATML, _save_tiny_model

    path = folder / name
    path.mkdir()
    _save_tiny_model(path, CHATML, {})
    kind, settings = MODELS[name]
    config = getattr(transformers, kind)(**settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(path)
    return path


def write_rows(folder: Path, count: int, tokens: int) -> Path:
    """Conversations of about so many tokens of the tests' tokenizer, half of them trained."""
    path = folder / f"{count}-{tokens}.jsonl"
    words = " it rains the lazy dog jumps over"  # a token or so each
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            half = (f"{number}" + words * tokens)[: int(tokens * 1.25)]
            turns = [{"role": role, "content": half} for role in ("user", "assistant")]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path


def recipe(point: Point, model: Path, rows: Path, out: Path) -> Any:
    """What a point carries out."""
    import ftkit

    return ftkit.Recipe(
        model=str(model),
        data={"source": str(rows), "held_out_fraction": 0.0, "max_length": 4096},
        method={"type": "lora", "rank": 8} if point.method == "lora" else "full",
        training={
            "max_steps": 3,
            "batch_size": point.batch,
            "evals": 0,
            "checkpoints": 0,
            "learning_rate": 1e-5,
        },
        compute={"device": "cpu", "gradient_checkpointing": point.level},
        output={"folder": out},
    )


def _run(point: Point, model: Path, folder: Path, answer: Any) -> None:
    """In a process of its own: the run, and the most memory that it held."""
    import ftkit
    from ftkit.models import estimate

    with tempfile.TemporaryDirectory(dir=folder) as out, contextlib.redirect_stderr(None):
        asked = recipe(point, model, write_rows(Path(out), 3 * point.batch, point.tokens), Path(out))
        run = ftkit.start(asked).wait()
        plan = next(event for event in run.events() if event["kind"] == "plan")
        peak = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9  # type: ignore[index]
        tokens = round(plan["train_tokens"] / plan["train_rows"])
        expected = estimate(asked, row_tokens=tokens)
    answer.send({"tokens": tokens, "peak": peak, "estimate": expected.peak_gb, "parts": dict(expected.parts)})


def measure(point: Point, model: Path, folder: Path) -> dict[str, Any]:
    """Peak and estimate of one point, in 10^9 bytes."""
    # a forked child would not count the libraries that its parent has mapped: about 0.1 GB
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(point, model, folder, sender))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        child.join()


def main() -> None:
    """Measure the grid and print it; the figures also go to bench/memory.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--lengths", default="120,600")
    parser.add_argument("--methods", default="lora,full")
    parser.add_argument("--levels", default="off,attention,mlp,layers")
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    found = []
    with tempfile.TemporaryDirectory() as work:
        os.environ.setdefault("FTKIT_QUEUE", work)  # who else computes here is all one to the memory
        for name in given.models.split(","):
            model = make_model(Path(work), name)
            grid = itertools.product(
                map(int, given.batches.split(",")), map(int, given.lengths.split(",")),
                given.methods.split(","), given.levels.split(","),
            )  # fmt: skip
            for batch, tokens, method, level in grid:
                point = Point(name, batch, tokens, method, level)
                result = measure(point, model, Path(work))
                ratio = result["estimate"] / result["peak"]
                found.append(vars(point) | result)
                print(f"{point} {result['tokens']:5} tokens  measured {result['peak']:5.2f}  "
                      f"estimated {result['estimate']:5.2f}  {ratio:4.2f}", flush=True)  # fmt: skip
    ratios = [one["estimate"] / one["peak"] for one in found]
    within = sum(0.85 <= ratio <= 1.15 for ratio in ratios)
    print(f"bench: memory estimate/measured {min(ratios):.2f} to {max(ratios):.2f}, "
          f"{within} of {len(ratios)} within 15%")  # fmt: skip
    Path("bench").mkdir(exist_ok=True)
    Path("bench/memory.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    sys.exit(main())
