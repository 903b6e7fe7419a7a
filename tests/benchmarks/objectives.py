"""What the objectives do to the starter model: margins of held-out pairs and ratings, before and after.

    python -m tests.benchmarks.objectives sft OUT [RATED_FILE [STEPS [HELD_OUT_ROWS]]]
    python -m tests.benchmarks.objectives dpo OUT
    python -m tests.benchmarks.objectives kto OUT RATED_FILE
    python -m tests.benchmarks.objectives grpo OUT
    python -m tests.benchmarks.objectives pretraining OUT

`sft` trains the model whole; `dpo` and `kto` start from what it saved, the others from the starter. The
preference pairs are the starter set's own: its answer against the answer to another row. RATED_FILE holds
rated conversations. The text of `pretraining` is this project's own source, with what it says of itself.
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
PIECE = 700
"""Characters of a piece of text, about."""


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


def shown(held_out: bool) -> list[dict[str, Any]]:
    """The starter set's orders, each after one that was answered: the model then sometimes writes JSON."""
    starter = STARTER_SETS["extract"]
    path = starter.held_out_path if held_out else starter.train_path
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()[:64]]
    return [{"messages": [*before, *row[1:]]} for before, row in zip([rows[-1], *rows], rows, strict=False)]


def pieces(held_out: bool) -> list[dict[str, str]]:
    """This project's source and README, in pieces between definitions; every fifth file is held out."""
    files = [ROOT / "README.md", *sorted((ROOT / "ftkit").rglob("*.py"))]
    made = []
    for number, path in enumerate(files):
        if (number % 5 == 4) != held_out:
            continue
        piece = ""
        for part in path.read_text(encoding="utf-8").split("\n\n"):
            if piece and len(piece) + len(part) > PIECE:
                made.append({"text": piece})
                piece = ""
            piece += f"{part}\n\n"
        made.append({"text": piece})
    return [piece for piece in made if len(piece["text"]) <= 2 * PIECE]


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


def main(kind: str, out: Path, file: str = "", max_steps: int = 40, rows_held_out: int = 24) -> None:
    after_sft = str(out / "sft" / "model")
    short = {"max_length": 256, "eval_rows": rows_held_out, "held_out_fraction": 0.2}
    steps = {"batch_size": 4, "max_steps": max_steps, "evals": 1, "checkpoints": 0}
    lora = {"type": "lora", "rank": 16}
    match kind:
        case "grpo":
            saved, aside = (str(ftkit.data.save_rows(shown(held_out))) for held_out in (False, True))
            data = {"source": saved, "held_out_source": aside, "eval_rows": 12}
            objective = {"type": "grpo", "rewards": ["json"], "num_generations": 6, "max_new_tokens": 48}
            training = {"batch_size": 2, "max_steps": 14, "evals": 1, "learning_rate": 5e-4, "checkpoints": 0}
            run("grpo", out, data=data, method=lora, objective=objective, training=training)
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
            rows = {"source": file, "max_length": 384, "eval_rows": 60, "held_out_fraction": 0.2}
            training = steps | {"max_steps": 32, "learning_rate": 3e-4}
            run("kto", out, model=after_sft, data=rows, method=lora, objective="kto", training=training)
        case "pretraining":
            saved, aside = (str(ftkit.data.save_rows(pieces(held_out))) for held_out in (False, True))
            rows = {"source": saved, "held_out_source": aside, "max_length": 512, "eval_rows": 32}
            training = steps | {"learning_rate": 2e-4}
            run("pretraining", out, data=rows, method=lora, objective="pretraining", training=training)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:4], *map(int, sys.argv[4:]))
