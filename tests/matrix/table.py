"""TABLE.md: what goes together, as a table to read.

    python -m tests.matrix.table

writes it anew from what `cells.py` says; the tests hold every cell to that.
"""

from __future__ import annotations

from pathlib import Path

from . import architectures, cells

PATH = Path(__file__).with_name("TABLE.md")
_HEAD = """\
# What goes together: objective, method, architecture

Made by `python -m tests.matrix.table`: do not edit. Every cell is a test on a tiny random model: the loss
falls on rows it can learn by heart (of replies that are rewarded, the reward rises), what was trained is
saved, loaded again, and gives the same logits; where something cannot be had, that is said before anything
is trained.

`yes`: in every run of the tests. `grid`: by `make grid`, which tries all cells. `-`: cannot be had, see
below.
"""


def text() -> str:
    """The whole document."""
    parts = [_HEAD]
    for objective in cells.OBJECTIVES:
        parts.append(f"\n## {objective}\n\n| | {' | '.join(architectures.CONFIGS)} |\n")
        parts.append(f"| --- |{' --- |' * len(architectures.CONFIGS)}\n")
        parts += [_line(objective, method) for method in cells.METHODS]
    parts.append("\n## What cannot be had\n\n")
    parts += [f"- {what}: {why}.\n" for why, (what, _) in cells.CANNOT.items()]
    parts.append("\n## The methods, as the tests set them\n\n")
    parts += [f"- {name}: `{settings}`\n" for name, settings in cells.METHODS.items()]
    return "".join(parts)


def _line(objective: str, method: str) -> str:
    found = [cells.Cell(objective, method, one) for one in architectures.CONFIGS]
    shown = ["-" if one.obstacle else "yes" if one.always else "grid" for one in found]
    return f"| {method} | {' | '.join(shown)} |\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
