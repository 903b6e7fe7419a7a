"""Speed and memory of fine-tuning on a CPU: ftkit beside Hugging Face Trainer, TRL and Unsloth.

    python -m tests.benchmarks.train_speed [--rounds 3] [--steps 6] [--batches 1,2,8] [--lengths 220,1000]
                                           [--method lora|full] [--model starter|gemma3-270m]
                                           [--only ftkit,hf-fp32]

Each contender runs in a process of its own, one after the other, several rounds, so that a noisy machine hits
all of them alike; all learn the same rows in the same order. Reported are tokens a second over the steps
after the first (padding does not count), the peak resident memory of the process, the ratio of each round,
and how far the losses are from Trainer's in fp32, step by step: a speed-up whose losses disagree is none.
Unsloth draws its own first values of the adapter; the others share theirs. What a piece of `compute.fast`
brings is shown by `--only ftkit,ftkit-without-attention`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from ftkit.models import probe
from tests.benchmarks import second_model
from tests.benchmarks.contenders import RANK, RATE, WITHOUT, available, in_a_process, write_rows
from tests.benchmarks.figures import spread

REFERENCE = "hf-fp32"
BEST = "hf-best"
OUT = Path("bench/latest.json")
Results = dict[str, list[dict[str, Any]]]


def median(rounds: list[dict[str, Any]], what: str) -> float:
    """Of one figure over the rounds."""
    return statistics.median(one[what] for one in rounds)


def gap(rounds: list[dict[str, Any]], others: list[dict[str, Any]]) -> tuple[float, float, float]:
    """How far the losses are apart, in nats: the largest of a step, of the means, of the last tenth."""
    pairs = [
        (one["losses"], other["losses"]) for one, other in zip(rounds, others, strict=True) if other["losses"]
    ]
    largest = max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
    mean = max(abs(statistics.mean(ours) - statistics.mean(theirs)) for ours, theirs in pairs)
    tail = max(1, len(pairs[0][0]) // 10)
    end = max(abs(statistics.mean(ours[-tail:]) - statistics.mean(theirs[-tail:])) for ours, theirs in pairs)
    return largest, mean, end


def report(results: Results) -> list[str]:
    """A table, and a line with ftkit's ratios to each other contender."""
    lines = [f"{'contender':24}{'tokens/s':>18}{'peak GB':>9}   loss from fp32: largest, mean, end"]
    for name, rounds in results.items():
        shown = spread([one["tokens_per_second"] for one in rounds], 0)
        line = f"{name:24}{shown:>18}{max(one['peak_gb'] for one in rounds):9.2f}"
        if REFERENCE in results:
            line += "   " + "".join(f"{value:9.4f}" for value in gap(rounds, results[REFERENCE]))
        lines.append(line)
    if "ftkit" not in results:
        return lines
    peers = {name: rounds for name, rounds in results.items() if name != "ftkit"}
    plain = {name: rounds for name, rounds in peers.items() if name.startswith("hf-")}
    if plain:
        fastest = max(plain, key=lambda name: median(plain[name], "tokens_per_second"))
        peers[BEST] = plain[fastest]
    for name, rounds in peers.items():
        pairs = list(zip(results["ftkit"], rounds, strict=True))
        ratios = {
            what: spread([ours[what] / theirs[what] for ours, theirs in pairs])
            for what in ("tokens_per_second", "peak_gb")
        }
        lines.append(f"bench: ftkit/{name} speed {ratios['tokens_per_second']} memory {ratios['peak_gb']}")
    return lines


def compare(settings: dict[str, Any], tokens: int, rounds: int, only: set[str]) -> Results:
    """All contenders with one setting, round after round."""
    contenders, absent = available(settings["method"])
    print("\n".join(absent))
    names = [one.name for one in contenders if not only or one.name in only]
    names += sorted(name for name in only if name.startswith(WITHOUT))
    results: Results = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as work:
        mean = write_rows(Path(work), settings, tokens)
        what = f"LoRA r={RANK}" if settings["method"] == "lora" else "all weights"
        print(f"{settings['model']}, {settings['batch']} conversations of {mean:.0f} tokens a step, {what}")
        for turn in range(rounds):
            for name in names:
                results[name].append(in_a_process(name, settings))
                latest = results[name][-1]
                speed = f"{latest['tokens_per_second']:.0f} tokens/s, {latest['peak_gb']:.2f} GB"
                print(f"  round {turn + 1}: {name} {speed}", flush=True)
    print("\n".join(report(results)), flush=True)
    return results


def main() -> None:
    """Measure and print; the figures also go to bench/latest.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batches", default="8", help="conversations in a step, such as 1,2,8")
    parser.add_argument("--lengths", default="220", help="tokens of a conversation, such as 220,1000")
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--model", default="starter", help=f"also {second_model.NAME}, or a folder")
    parser.add_argument("--only", default="", help="contenders, with commas between them; all otherwise")
    parser.add_argument("--compute", default="{}", help="ftkit's compute section, as JSON")
    given = parser.parse_args()
    found = []
    model: dict[str, Any] = {"model": given.model}
    if given.model == second_model.NAME:
        model = {"model": str(second_model.path()), "template": second_model.TEMPLATE}
    grid = itertools.product(map(int, given.batches.split(",")), map(int, given.lengths.split(",")))
    for batch, tokens in grid:
        settings = {
            **model,
            "steps": given.steps,
            "batch": batch,
            "method": given.method,
            "rate": RATE if given.method == "lora" else RATE / 10,
            "compute": json.loads(given.compute),
            "bf16": probe("cpu").native_bf16,
        }
        only = {name for name in given.only.split(",") if name}
        results = compare(settings, tokens, given.rounds, only)
        found.append({"batch": batch, "tokens": tokens, "results": results})
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"settings": vars(given), "grid": found}, indent=1))


if __name__ == "__main__":
    main()
