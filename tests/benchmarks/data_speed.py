"""Rendering, tokenising and masking: ftkit beside `datasets.map` over the tokenizer's own assistant masks.

    python -m tests.benchmarks.data_speed [--rows 20000] [--rounds 3] [--source FILE]

Both get the same conversations and the starter model's tokenizer, in turn, round after round. The peer needs
a template with generation marks, so it gets one that renders the same text; it runs in as many processes as
there are cores, without its cache. Their ids and masks are compared over all rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

MARKED = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face' }}"
    "{{ '<|im_end|>\n' }}"
    "{% endif %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
    "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)


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


def ours(talks: list[list[dict[str, Any]]], tokenizer: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """ftkit: from rows to (ids, mask)."""
    from ftkit.data import Template, encode_all, load
    from ftkit.recipe import SFT

    rows = load([{"messages": turns} for turns in talks], held_out_fraction=0).train
    found = encode_all(rows, Template(tokenizer), objective=SFT(), max_length=10**9, too_long="error")
    return [(row.ids, row.mask) for row in found.rows]


def theirs(talks: list[list[dict[str, Any]]], tokenizer: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """datasets.map over apply_chat_template with assistant masks."""
    import datasets

    datasets.disable_caching()
    datasets.disable_progress_bars()

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        done = tokenizer.apply_chat_template(
            batch["messages"],
            chat_template=MARKED,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        return {"ids": done["input_ids"], "mask": done["assistant_masks"]}

    rows = datasets.Dataset.from_list([{"messages": turns} for turns in talks])
    done = rows.map(encode, batched=True, num_proc=os.cpu_count(), remove_columns=["messages"])
    done.set_format("numpy")
    return [(row["ids"], row["mask"]) for row in done]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source", default="starter:persona", help="whose rows are repeated")
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import ftkit
    from ftkit.models import load_tokenizer

    tokenizer = load_tokenizer(ftkit.Recipe().model)
    talks = conversations(given.source, given.rows)
    ratios = []
    for turn in range(given.rounds):
        seconds = []
        results = []
        for contender in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
            begun = time.perf_counter()
            result = contender(talks, tokenizer)
            seconds.append((contender.__name__, time.perf_counter() - begun))
            results.append((contender.__name__, result))
        took, found = dict(seconds), dict(results)
        same = sum(
            a.tolist() == b.tolist() and c.astype(int).tolist() == d.astype(int).tolist()
            for (a, c), (b, d) in zip(found["ours"], found["theirs"], strict=True)
        )
        ratios.append(took["theirs"] / took["ours"])
        tokens = sum(len(ids) for ids, _ in found["ours"])
        print(
            f"  round {turn + 1}: {tokens:,} tokens, ftkit {took['ours']:.1f} s, datasets.map "
            f"{took['theirs']:.1f} s, {same:,} of {given.rows:,} rows the same",
            flush=True,
        )
    name = Path(given.source).name
    print(
        f"bench: data {name} ftkit/datasets.map speed {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f}-{max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
