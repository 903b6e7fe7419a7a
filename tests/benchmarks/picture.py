"""The figures of bench/latest.json as a picture for the README: tokens a second and peak memory, as bars.

    python -m tests.benchmarks.picture notebooks/images/bench.svg

Colours are mid-tones that read on white and on black.
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.train_speed import OUT, Results, median

_TEXT, _OURS, _OTHERS = "#808790", "#3d8fe0", "#9aa3ad"
_ROW, _TOP, _NAMES, _BAR, _GAP = 30, 46, 250, 250, 90


def svg(results: Results, title: str) -> str:
    """Two columns of bars, a row for each contender."""
    about = {one.name: one.about for one in CONTENDERS}
    columns = [("Tokens a second", "tokens_per_second", "{:,.0f}"), ("Peak memory (GB)", "peak_gb", "{:.2f}")]
    width, height = _NAMES + len(columns) * (_BAR + _GAP), _TOP + _ROW * len(results) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{_TEXT}"><title>{escape(title)}</title>',
        f'<text x="0" y="16" font-size="14" font-weight="600">{escape(title)}</text>',
    ]
    for place, (name, key, form) in enumerate(columns):
        left = _NAMES + place * (_BAR + _GAP)
        values = {one: median(rounds, key) for one, rounds in results.items()}
        parts.append(f'<text x="{left}" y="{_TOP - 8}" font-weight="600">{name}</text>')
        for row, (one, value) in enumerate(values.items()):
            y, long = _TOP + row * _ROW, _BAR * value / max(values.values())
            colour = _OURS if one == "ftkit" else _OTHERS
            parts.append(f'<rect x="{left}" y="{y}" width="{long:.1f}" height="18" rx="3" fill="{colour}"/>')
            parts.append(f'<text x="{left + long + 6:.1f}" y="{y + 14}">{form.format(value)}</text>')
            if not place:
                label = about.get(one, one)  # ftkit less a piece is no contender of its own
                label = label.replace("transformers ", "").replace("gradient checkpointing", "ckpt")
                parts.append(f'<text x="0" y="{y + 14}">{escape(label)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main(target: Path) -> None:
    """Draw the first setting that was measured."""
    found: dict[str, Any] = json.loads(OUT.read_text(encoding="utf-8"))
    first = found["grid"][0]
    what = f"{first['batch']} conversations of about {first['tokens']} tokens a step, two CPU cores"
    target.write_text(svg(first["results"], f"{found['settings']['model']} model, LoRA: {what}"), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
