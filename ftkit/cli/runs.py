"""`ftkit runs`: the runs in a folder, as a table."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ftkit.cli.console import out, printable

if TYPE_CHECKING:
    from ftkit.runs import Run

_COLOURS = {
    "finished": "green",
    "failed": "red",
    "interrupted": "red",
    "running": "cyan",
    "stopped": "yellow",
}


def runs(folder: Path) -> int:
    """List the runs in `folder`, newest first."""
    from ftkit.runs import list_runs

    found = list_runs(folder)
    if not found:
        out.print(f"There are no runs in {escape(printable(str(folder)))}. Start one: [bold]ftkit demo[/]")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "state", "model", "data", "method"):
        table.add_column(name, overflow="fold")
    for name in ("step", "eval loss"):
        table.add_column(name, justify="right")
    table.add_column("started", no_wrap=True)
    for run in found:
        table.add_row(*_row(run))
    # In a pipe there is no width to fit into: a row stays a line.
    (out if out.is_terminal else Console(width=1000, highlight=False)).print(table)
    return 0


def _row(run: Run) -> list[str]:
    recipe, progress, summary = run.recipe, run.progress, run.summary
    begun, loss = summary.started, summary.curves["eval_loss"].last
    started = datetime.fromtimestamp(begun).strftime("%m-%d %H:%M") if begun is not None else ""
    colour = _COLOURS.get(run.status)
    state = f"[{colour}]{run.status}[/]" if colour else run.status
    plain = [run.name, _short(recipe.model.source), _short(recipe.data.source), recipe.method.type]
    name, model, data, method = (escape(printable(text)) for text in plain)
    steps = f"{progress.step or 0}/{progress.total_steps or '?'}"
    return [name, state, model, data, method, steps, "" if loss is None else f"{loss:.4f}", started]


def _short(source: str) -> str:
    """A source without the folders that lead to it; Hub ids stay whole."""
    return Path(source).name if Path(source).is_absolute() else source
