"""`ftkit data inspect`: what a dataset is and what would be trained of it; `convert`: it as messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ftkit.cli.console import out, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ftkit.data import Dataset, Example, Refusal, Template
    from ftkit.data.inspection import Inspection

_REFUSALS_SHOWN = 10


def inspect(
    source: str | Path,
    *,
    model: str = "starter",
    template: str | None = None,
    row: int | None = None,
    as_json: bool = False,
    offline: bool = False,
    **settings: Any,
) -> int:
    """Read, encode and check a dataset; print what was found, as text or as one JSON object.

    Raises
    ------
    DataError
        When it cannot be read, or has no row `row`.
    """
    from ftkit.data import Template, load
    from ftkit.data.inspection import inspect as look
    from ftkit.models import load_tokenizer
    from ftkit.recipe import Model

    dataset = load(source, offline=offline, held_out_fraction=0.0, **settings)
    chat = Template(load_tokenizer(Model(source=model), offline=offline), template=template)
    found = look(dataset, chat)
    shown = _tokens(found, chat, row) if row is not None else None
    if as_json:
        print(json.dumps(found.to_dict() | ({"row": shown} if shown is not None else {}), ensure_ascii=False))
        return 0
    _print_counts(found)
    _print_refused(found.dataset, found.refused)
    _print_findings(found)
    if shown is not None:
        _print_tokens(shown)
    return 0


def convert(
    source: str | Path, target: Path, *, overwrite: bool = False, offline: bool = False, **settings: Any
) -> int:
    """Read a dataset of any format and write it as OpenAI messages.

    Raises
    ------
    DataError
        When it cannot be read, or `target` is there already and `overwrite` is not set.
    """
    from ftkit.data import load, write_messages

    dataset = load(source, offline=offline, held_out_fraction=0.0, **settings)
    written = write_messages(dataset, target, overwrite=overwrite)
    out.print(escape(printable(f"Read as {dataset.format} ({dataset.format_reason}).")))
    for path, count in written.items():
        out.print(escape(printable(f"{path}: {count:,} rows")))
    _print_refused(dataset, dataset.refused)
    return 0


def _example(found: Inspection, row: int) -> Example:
    from ftkit.errors import DataError

    for example in found.dataset.train:
        if example.row == row:
            return example
    refusal = next((one for one in found.refused if one.row == row), None)
    if refusal is not None:
        raise DataError(f"Row {row} is refused: {refusal.reason}.", "Mend it, or look at another row.")
    raise DataError(f"There is no row {row}.", "Rows count from 0.")


def _tokens(found: Inspection, chat: Template, row: int) -> dict[str, Any]:
    from ftkit.data import preview_tokens
    from ftkit.recipe import SFT

    return {"number": row, "tokens": preview_tokens(_example(found, row), chat, SFT())}


def _print_counts(found: Inspection) -> None:
    facts = found.to_dict()
    lengths = facts["lengths"]
    share = found.trained_tokens / found.tokens if found.tokens else 0.0
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    padding = f"{facts['padding_saved']:.1%}"
    columns = ", ".join(f"{role}: {column}" for role, column in facts["columns"].items())
    listed = [f"{part.name}: {part.rows:,} rows, {part.layout.format}" for part in found.dataset.parts]
    lines = ({"sources": "\n".join(listed)} if len(listed) > 1 else {}) | {
        "format": f"{facts['format']} ({facts['reason']}; confidence {facts['confidence']:.2f})",
        "columns": columns,
        "rows": f"{facts['rows']:,}, {facts['accepted']:,} can be learned, {len(found.refused):,} refused",
        "tokens": f"{found.tokens:,}, {share:.0%} trained",
        "lengths": f"half up to {lengths['p50']:,}, 95 % to {lengths['p95']:,}, longest {lengths['max']:,}",
        "packing": f"rows end to end need no padding; batches of 8 of like length have {padding}",
    }
    for name, text in lines.items():
        table.add_row(name, escape(printable(text)))
    out.print(table)


def _print_refused(dataset: Dataset, refused: Sequence[Refusal]) -> None:
    for one in refused[:_REFUSALS_SHOWN]:
        where = escape(printable(dataset.where(one.row)))
        out.print(f"[yellow]refused[/] {where}: {escape(printable(one.reason))}")
    if len(refused) > _REFUSALS_SHOWN:
        more = len(refused) - _REFUSALS_SHOWN
        out.print(f"[yellow]refused[/] and {more:,} more (ftkit data inspect --json has them all)")


def _print_findings(found: Inspection) -> None:
    if not found.findings:
        out.print("[green]Nothing odd was found.[/]")
    for one in found.findings:
        colour = "red" if one.level == "error" else "yellow"
        rows = f" Rows {', '.join(map(str, one.rows[:8]))}{'…' if one.count > 8 else ''}." if one.rows else ""
        count = f" ({one.count:,})" if one.count else ""
        out.print(
            f"[{colour}]{one.level}[/] [bold]{escape(one.title)}{count}[/]: "
            f"{escape(printable(one.message))}{rows}"
        )


def _print_tokens(shown: dict[str, Any]) -> None:
    text = Text()
    for token in shown["tokens"]:
        style = "black on green" if token["trained"] else "dim" if token["special"] else ""
        text.append(printable(token["text"].replace("\n", "⏎\n")), style=style)
    trained = sum(token["trained"] for token in shown["tokens"])
    out.print(f"\nRow {shown['number']}: {len(shown['tokens'])} tokens, {trained} trained (on green)")
    out.print(text)
