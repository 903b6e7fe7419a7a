"""What the objectives do to the starter model: margins of held-out pairs and ratings, before and after.

    python -m tests.benchmarks.objectives sft OUT [RATED_FILE]
    python -m tests.benchmarks.objectives dpo OUT
    python -m tests.benchmarks.objectives kto OUT RATED_FILE
    python -m tests.benchmarks.objectives pretraining OUT

`sft` trains the model whole, and the others start from what it saved. The preference pairs are the starter
set's own: its answer against the answer to another row. RATED_FILE holds rated conversations. The text of
`pretraining` is this project's own documentation in its source.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import ftkit
from ftkit.data.starter import STARTER_SETS

ROOT = Path(__file__).parents[2]


def pairs() -> list[dict[str, str]]:
    """The starter set's rows, each with its answer and the next row's."""
    lines = STARTER_SETS["extract"].train_path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[:160]]
    made = []
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        *_, question, answer = row["messages"]
        made.append(
            {
                "prompt": question["content"],
                "chosen": answer["content"],
                "rejected": other["messages"][-1]["content"],
            }
        )
    return made


def sources() -> list[dict[str, str]]:
    """Every module of the package as a text."""
    return [
        {"text": path.read_text(encoding="utf-8")[:3000]} for path in sorted((ROOT / "ftkit").rglob("*.py"))
    ]


def run(name: str, out: Path, **recipe: Any) -> Any:
    started = time.perf_counter()
    made = ftkit.start(ftkit.Recipe(**recipe, output={"folder": out, "name": name})).wait()
    metrics = made.metrics
    told = [column for column in metrics if column.startswith("eval_") and metrics[column].notna().any()]
    for column in told:
        values = metrics[column].dropna()
        line = f"{name}: held-out {column[5:]} {values.iloc[0]:.4f} -> {values.iloc[-1]:.4f}"
        if column == "eval_loss" and name == "pretraining":
            line += f" (perplexity {math.exp(values.iloc[0]):.2f} -> {math.exp(values.iloc[-1]):.2f})"
        print(line)
    print(f"{name}: {len(metrics.loss.dropna())} steps, {time.perf_counter() - started:.0f} s", flush=True)
    return made


def main(kind: str, out: Path, file: str = "") -> None:
    after_sft = str(out / "sft" / "model")
    short = {"max_length": 256, "eval_rows": 24, "held_out_fraction": 0.2}
    steps = {"batch_size": 4, "max_steps": 40, "evals": 2, "checkpoints": 0}
    lora = {"type": "lora", "rank": 16}
    match kind:
        case "sft":
            data: Any = [{"source": "starter:extract", "max_rows": 160, **short}]
            if file:
                data.append({"source": file})
            run(
                "sft",
                out,
                data=data[0] | ({"mixed_with": data[1:]} if file else {}),
                method="full",
                training=steps | {"learning_rate": 2e-5},
            )
        case "dpo":
            rows = {"source": str(ftkit.data.save_rows(pairs())), **short}
            training = steps | {"learning_rate": 5e-5}
            run("dpo", out, model=after_sft, data=rows, method=lora, objective="dpo", training=training)
        case "kto":
            rows = {"source": file, **short}
            training = steps | {"learning_rate": 5e-5, "batch_size": 8}
            run("kto", out, model=after_sft, data=rows, method=lora, objective="kto", training=training)
        case "pretraining":
            rows = {"source": str(ftkit.data.save_rows(sources())), **short, "too_long": "split"}
            training = steps | {"learning_rate": 2e-4}
            run("pretraining", out, data=rows, method=lora, objective="pretraining", training=training)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
