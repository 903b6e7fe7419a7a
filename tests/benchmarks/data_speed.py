"""Rendering, tokenising and masking: ftkit beside `datasets.map` over assistant masks, and TRL's preparation.

    python -m tests.benchmarks.data_speed [--rows 20000] [--rounds 3] [--source FILE]

Both get the same conversations, the starter model's tokenizer and the same cores (datasets.map in one process
a core), each in a process of its own, in turn, round after round. Three times are taken: `prepare`, from the
rows to tokens at rest; `cached`, the same once more, found again; and `read`, going once through all rows as
numpy arrays, as a trainer does. Peak memory is taken in a run of its own, because looking slows the one that
is looked at: of the process and its children together, over what it held when it had the rows. The peer needs
a template with generation marks, so it gets one that renders the same text. Checksums over all ids and masks
are compared. TRL takes part where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.benchmarks.figures import spread

MARKED = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face' }}"
    "{{ '<|im_end|>\n' }}"
    "{% endif %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
    "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "kto_en_demo.json"
PEERS = ("datasets.map", "trl")
STAGES = ("prepare", "cached", "read")


def conversations(source: str, count: int) -> list[list[dict[str, Any]]]:
    """`count` conversations: the rows of `source` again and again, each numbered, so that all differ."""
    from ftkit.data import as_conversation, load
    from ftkit.data.example import RatedReply

    made = []
    for example in load(source, held_out_fraction=0).train:
        if not isinstance(example, RatedReply) or example.good:
            made.append([message.as_dict() for message in as_conversation(example).messages])  # type: ignore[union-attr]
    out = []
    for n in range(count):
        turns = [dict(turn) for turn in made[n % len(made)]]
        turns[-2]["content"] += f" ({n})"
        out.append(turns)
    return out


class Ours:
    """ftkit: from rows to (ids, mask), kept on disk."""

    def __init__(self, tokenizer: Any, folder: Path) -> None:
        self.tokenizer, self.folder = tokenizer, folder

    def prepare(self, talks: list[list[dict[str, Any]]]) -> Any:
        from ftkit.data import Template, encode_all, load
        from ftkit.recipe import SFT

        rows = load([{"messages": turns} for turns in talks], held_out_fraction=0).train
        limits: dict[str, Any] = {"objective": SFT(), "max_length": 10**9, "too_long": "error"}
        return encode_all(rows, Template(self.tokenizer), cache=self.folder, **limits).rows

    def read(self, done: Any) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        return ((row.ids, row.mask) for row in done)


class Theirs:
    """datasets.map over apply_chat_template with assistant masks; its cache as it comes."""

    def __init__(self, tokenizer: Any, folder: Path) -> None:
        import datasets

        datasets.disable_progress_bars()
        datasets.config.HF_DATASETS_CACHE = str(folder)
        self.tokenizer, self.folder = tokenizer, folder

    def prepare(self, talks: list[list[dict[str, Any]]]) -> Any:
        import datasets

        tokenizer = self.tokenizer

        def encode(batch: dict[str, Any]) -> dict[str, Any]:
            done = tokenizer.apply_chat_template(
                batch["messages"],
                chat_template=MARKED,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
            return {"ids": done["input_ids"], "mask": done["assistant_masks"]}

        file = self.folder / "rows.parquet"
        if not file.exists():
            datasets.Dataset.from_list([{"messages": turns} for turns in talks]).to_parquet(file)
        rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(self.folder))
        return rows.map(encode, batched=True, num_proc=os.cpu_count(), remove_columns=["messages"])

    def read(self, done: Any) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        return ((row["ids"], row["mask"]) for row in done.with_format("numpy"))


class Trl(Theirs):
    """TRL's SFTTrainer, which prepares its dataset when it is made; of a model with next to no weights."""

    def prepare(self, talks: list[list[dict[str, Any]]]) -> Any:
        import datasets
        import trl
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = self.tokenizer
        tokenizer.chat_template = MARKED
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=1, **sizes))
        settings = trl.SFTConfig(
            output_dir=str(self.folder),
            use_cpu=True,
            report_to=[],
            max_length=None,
            assistant_only_loss=True,
            dataset_num_proc=os.cpu_count(),
        )
        rows = datasets.Dataset.from_list([{"messages": turns} for turns in talks])
        return trl.SFTTrainer(model, settings, train_dataset=rows, processing_class=tokenizer).train_dataset

    def read(self, done: Any) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        return ((row["input_ids"], row["labels"] != -100) for row in done.with_format("numpy"))


class Peak:
    """The most memory that this process and its children held, in GB, over what it held at the start."""

    def __enter__(self) -> Peak:
        self.process, self.most, self.over = psutil.Process(), 0, threading.Event()
        self.start = self._now()
        self.watch = threading.Thread(target=self._watch, daemon=True)
        self.watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.watch.join()
        self.gb = max(0, self.most - self.start) / 1e9

    def _now(self) -> int:
        total = 0
        for one in [self.process, *self.process.children(recursive=True)]:
            try:
                total += getattr(one.memory_full_info(), "uss", 0)
            except psutil.Error:
                continue
        return total

    def _watch(self) -> None:
        while not self.over.wait(0.1):
            self.most = max(self.most, self._now())


def measure(name: str, source: str, count: int, *, memory: bool) -> dict[str, Any]:
    """One contender in this process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import ftkit
    from ftkit.models import load_tokenizer

    tokenizer = load_tokenizer(ftkit.Recipe().model)
    talks = conversations(source, count)
    with tempfile.TemporaryDirectory() as work:
        contender = {"ftkit": Ours, "datasets.map": Theirs, "trl": Trl}[name](tokenizer, Path(work))
        contender.prepare(talks[:1500])  # libraries loaded, templates compiled
        for file in Path(work).glob("*.parquet"):
            file.unlink()
        if memory:
            with Peak() as peak:
                contender.prepare(talks)
            return {"gb": peak.gb}
        seconds = {}
        for stage in ("prepare", "cached"):
            begun = time.perf_counter()
            done = contender.prepare(talks)
            seconds[stage] = time.perf_counter() - begun
        begun = time.perf_counter()
        tokens = sum(len(ids) for ids, _ in contender.read(done))
        seconds["read"] = time.perf_counter() - begun
        ids_sum = mask_sum = 0
        for ids, mask in contender.read(done):
            ids_sum = zlib.crc32(np.asarray(ids, "<i4").tobytes(), ids_sum)
            mask_sum = zlib.crc32(np.asarray(mask, "|b1").tobytes(), mask_sum)
        return {"seconds": seconds, "tokens": tokens, "sums": [ids_sum, mask_sum]}


def in_a_process(name: str, source: str, count: int, *more: str) -> dict[str, Any]:
    """One contender in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.data_speed", "--child", name]
    command += ["--source", source, "--rows", str(count), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source", default=str(SHARED) if SHARED.exists() else "starter:persona")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child, given.source, given.rows, memory=given.memory)))
        return
    peers = [name for name in PEERS if name != "trl" or importlib.util.find_spec("trl")]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in ("ftkit", *peers)}
    for turn in range(given.rounds):
        for name in list(results)[:: 1 if turn % 2 == 0 else -1]:
            results[name].append(in_a_process(name, given.source, given.rows))
            latest = results[name][-1]
            times = ", ".join(f"{stage} {latest['seconds'][stage]:.2f} s" for stage in STAGES)
            print(f"  round {turn + 1}: {name:12} {times}", flush=True)
    ours = results["ftkit"]
    same = all(one["sums"] == ours[0]["sums"] for runs in results.values() for one in runs)
    print(
        f"{given.rows:,} conversations, {ours[0]['tokens']:,} tokens of {Path(given.source).name}; ", end=""
    )
    print("all ids and masks the same" if same else "THE TOKENS DIFFER")
    for name in peers:
        for stages in (*((stage,) for stage in STAGES), ("prepare", "read")):
            ratios = [
                sum(theirs["seconds"][stage] for stage in stages)
                / sum(one["seconds"][stage] for stage in stages)
                for one, theirs in zip(ours, results[name], strict=True)
            ]
            print(f"bench: data {' and '.join(stages)} ftkit/{name} speed {spread(ratios)}")
    for rows in (given.rows // 4, given.rows):
        more = {name: in_a_process(name, given.source, rows, "--memory")["gb"] for name in results}
        shown = ", ".join(f"{name} {gb:.3f} GB" for name, gb in more.items())
        print(f"bench: data peak memory over {rows:,} rows: {shown}")


if __name__ == "__main__":
    main()
