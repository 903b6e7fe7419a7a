"""Writes the starter sets: `python -m ftkit.data.generate` makes `ftkit/data/starter/*.jsonl` anew.

Every row is a conversation in the `messages` format plus columns that say what a held-out row tests.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ftkit.data import _extract_words as words
from ftkit.data import _persona_words as persona

Row = dict[str, Any]

STARTER_FOLDER = Path(__file__).with_name("starter")
SEED = 20261124
EXTRACT_TRAIN_ROWS = 640
EXTRACT_HELD_OUT_ROWS = 120


def extract_rows(split: str, seed: int = SEED) -> list[Row]:
    """Order sentences and the JSON object each stands for.

    Parameters
    ----------
    split
        `train`, or `held_out`: other names, items and cities, and every second row a sentence form that
        training never shows (`seen_form` false).
    seed
        The same seed gives the same rows.
    """
    rng = random.Random(f"extract {split} {seed}")
    rows: list[Row] = []
    if split == "train":
        forms = [(f"t{n:02d}", form, True) for n, form in enumerate(words.TRAIN_FORMS)]
        for n in range(EXTRACT_TRAIN_ROWS):
            rows.append(_order_row(rng, words.TRAIN, *forms[n % len(forms)]))
    else:
        seen = [(f"t{n:02d}", form, True) for n, form in enumerate(words.TRAIN_FORMS)]
        unseen = [(f"u{n:02d}", form, False) for n, form in enumerate(words.HELD_OUT_FORMS)]
        rng.shuffle(seen)
        for n in range(EXTRACT_HELD_OUT_ROWS):
            forms = unseen if n % 2 else seen
            rows.append(_order_row(rng, words.HELD_OUT, *forms[n // 2 % len(forms)]))
    rng.shuffle(rows)
    return rows


def persona_rows(split: str, seed: int = SEED) -> list[Row]:
    """Questions to Marlow, the lighthouse keeper, and what he says; see `_persona_words`.

    Parameters
    ----------
    split
        `train`, or `held_out`: questions that training never asks.
    seed
        The same seed gives the same rows.
    """
    rng = random.Random(f"persona {split} {seed}")
    rows = [
        {
            "messages": _messages(question, persona.in_voice(answer, rng)),
            "kind": kind,
            "contains": persona.contains(kind),
        }
        for kind, question, answer in persona.pairs(split)
    ]
    rng.shuffle(rows)
    return rows


def files() -> Iterator[tuple[str, str]]:
    """The name and the text of every file in `ftkit/data/starter`."""
    for name, make in (("extract", extract_rows), ("persona", persona_rows)):
        for split in ("train", "held_out"):
            yield f"{name}-{split}.jsonl", _jsonl(make(split))


def _order_row(rng: random.Random, side: words.Words, form_id: str, form: str, seen: bool) -> Row:
    name, who = rng.sample(side.names, 2)
    city, town = rng.sample(side.cities, 2)
    day, when = rng.sample(words.DAYS, 2)
    item = rng.choice(side.items)
    quantity = rng.randint(2, 12)
    number = rng.randint(13, 99)
    spelled = str(quantity) if rng.random() < 0.5 else words.NUMBER_WORDS[quantity - 2]
    sentence = form.format(
        name=name,
        who=who,
        city=city,
        town=town,
        day=day,
        when=when,
        item=item,
        quantity=spelled,
        number=number,
    )
    sentence = sentence[0].upper() + sentence[1:]
    answer = {"name": name, "item": item, "quantity": quantity, "city": city, "day": day}
    messages = _messages(sentence, json.dumps(answer, separators=(",", ":")), words.SYSTEM_PROMPT)
    return {"messages": messages, "form": form_id, "seen_form": seen}


def _messages(question: str, answer: str, system: str | None = None) -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _jsonl(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: write the files into `--folder`."""
    parser = argparse.ArgumentParser(description="Write ftkit's starter datasets.")
    parser.add_argument("--folder", type=Path, default=STARTER_FOLDER)
    folder: Path = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
        print(f"{folder / name}: {len(text.splitlines())} rows")


if __name__ == "__main__":
    main()
