"""`ftkit demo`: fine-tune a small model on a small task and measure on unseen rows that it learned."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ftkit.cli.console import out, printable
from ftkit.cli.follow import follow, report_stop
from ftkit.errors import RunError
from ftkit.recipe import Recipe

if TYPE_CHECKING:
    from ftkit.data import Example
    from ftkit.evaluate import Evaluation
    from ftkit.models import LoadedModel
    from ftkit.runs import Run

QUICK_STEPS = 4
QUICK_ROWS = 8

_TITLES = {"seen_form: yes": "sentence forms seen in training", "seen_form: no": "sentence forms never seen"}


def demo(
    *, folder: Path = Path("runs"), model: str = "starter", quick: bool = False, offline: bool = False
) -> int:
    """Train on the starter set *extract*, score the held-out rows with and without the adapter, and report.

    The last line printed is the result; `report.json` in the run's folder holds the same numbers and more.

    Parameters
    ----------
    folder
        Where the run goes, under the name `demo` (`demo-quick` with `quick`). An older one is replaced.
    model
        Another model than the starter.
    quick
        A few steps on a few rows: shows that everything works, not that the model learned.
    offline
        Use only what is already on this machine.

    Returns
    -------
    int
        The exit status.
    """
    from ftkit.data import load
    from ftkit.runs import start
    from ftkit.runs.folder import RunFolder

    begun = time.perf_counter()
    recipe = demo_recipe(folder=folder, model=model, quick=quick, offline=offline)
    make_room(folder / str(recipe.output.name))
    held_out = load(recipe.data, offline=offline).held_out[: QUICK_ROWS if quick else None]
    out.print(
        f"Task: turn a sentence into a JSON object. {len(held_out)} held-out rows decide, by exact match."
    )
    run = start(recipe)
    if not follow(run):
        return report_stop(run)

    evaluated = time.perf_counter()
    loaded = run.loaded or run.open_model()
    before, after = _evaluate(loaded, held_out)
    seconds = {"evaluation_seconds": time.perf_counter() - evaluated, "seconds": time.perf_counter() - begun}
    report = make_report(run, loaded, before, after, seconds)
    RunFolder(run.path).write_json("report.json", report)
    _show(report)
    out.print(f"Report: {escape(str(run.path / 'report.json'))}")
    out.print(f"Talk to both models: [bold]ftkit chat {escape(str(run.path))} --mode both[/]")
    print(result_line(report))
    return 0


def demo_recipe(*, folder: Path, model: str, quick: bool, offline: bool) -> Recipe:
    """The default Recipe on the starter set *extract*, its run named `demo`."""
    recipe = Recipe(data="starter:extract", model=model).replace(
        {
            "output.folder": folder,
            "output.name": "demo-quick" if quick else "demo",
            "compute.offline": offline,
        }
    )
    if quick:
        recipe = recipe.replace(
            {"training.max_steps": QUICK_STEPS, "training.evals": 1, "data.eval_rows": QUICK_ROWS}
        )
    return recipe


def make_room(path: Path) -> None:
    """Remove an older run at `path`, and nothing that is not one.

    Raises
    ------
    RunError
        When something else than an ended run of ftkit's stands there; it is left as it is.
    """
    from ftkit.runs import attach

    elsewhere = "Move it away, or give another folder with --folder."
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise RunError(f"{path} is not a run's folder.", elsewhere)
    if not path.exists():
        return
    if not any(path.iterdir()):
        path.rmdir()
        return
    if not all((path / name).is_file() for name in ("recipe.yaml", "events.jsonl")):
        raise RunError(f"{path} holds something that is not a run of ftkit's.", elsewhere)
    if attach(path).active:
        raise RunError(
            f"A run is going on in {path}.", "Wait for it to end, or give another folder with --folder."
        )
    shutil.rmtree(path)


def make_report(
    run: Run, loaded: LoadedModel, before: Evaluation, after: Evaluation, seconds: dict[str, float]
) -> dict[str, Any]:
    """Everything the demo measured.

    Returns
    -------
    dict
        What `ftkit.evaluate.before_after` says, and: `tokens_per_second` over all training steps, evaluations
        of the loss left out; `peak_memory_gb` the most that the process held at any time, or the GPU where
        the model is on one (GB of 1e9 bytes); `seconds` the whole demo, of which `training_seconds` (steps
        alone) and `evaluation_seconds`.
    """
    from ftkit.evaluate import before_after

    steps = [event for event in run.events() if event["kind"] == "train"]
    elapsed = steps[-1]["elapsed"] if steps else 0.0
    gpu = max((step["gpu_memory_gb"] or 0.0 for step in steps), default=0.0)
    process = peak_process_gb()
    return {
        **before_after(before, after),
        "tokens_per_second": steps[-1]["tokens"] / elapsed if elapsed else 0.0,
        "peak_memory_gb": gpu if loaded.device != "cpu" else process,
        "peak_process_memory_gb": process,
        "peak_gpu_memory_gb": gpu if loaded.device != "cpu" else None,
        **seconds,
        "training_seconds": elapsed,
        "training_steps": len(steps),
        "model_source": loaded.source.describe(),
        "before_is": "the trained model with its adapter switched off: the weights it started from",
        "environment": run.facts,
        "recipe": run.recipe.model_dump(mode="json"),
    }


def result_line(report: dict[str, Any]) -> str:
    """The one line that says it all."""
    return (
        f"demo: exact_match {report['exact_match_before']:.2f} -> {report['exact_match_after']:.2f} "
        f"on {report['held_out_rows']} held-out rows, {report['tokens_per_second']:.0f} tok/s, "
        f"peak {report['peak_memory_gb']:.2f} GB, {report['seconds']:.0f} s"
    )


def peak_process_gb() -> float:
    """The most memory this process has held at any time, in GB of 1e9 bytes."""
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e9
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def _evaluate(loaded: LoadedModel, held_out: Sequence[Example]) -> tuple[Evaluation, Evaluation]:
    """Without and with the adapter, on the same rows: one copy of the weights serves both."""
    from ftkit.evaluate import exact_match

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:

        def show(title: str) -> Callable[[str, float | None], None]:
            task = progress.add_task(title, total=1.0)
            return lambda _text, fraction: progress.update(task, completed=fraction or 0.0)

        before = exact_match(loaded, held_out, which="base", progress=show("Held-out rows, before"))
        after = exact_match(loaded, held_out, which="adapter", progress=show("Held-out rows, after"))
    return before, after


def _show(report: dict[str, Any]) -> None:
    """One held-out row before and after, and the scores by sentence form."""
    table = Table.grid(padding=(0, 2))
    for name, key in (("sentence", "prompt"), ("expected",) * 2, ("before",) * 2, ("after",) * 2):
        table.add_row(f"[bold]{name}[/]", escape(printable(report["sample"][key])))
    out.print("\nA held-out row", style="bold")
    out.print(table)

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("exact match", "rows", "before", "after"):
        table.add_column(name, justify="left" if name == "exact match" else "right")
    every = {
        "before": report["exact_match_before"],
        "after": report["exact_match_after"],
        "rows": report["held_out_rows"],
    }
    for name, part in {"all held-out rows": every, **report["by"]}.items():
        title = _TITLES.get(name, name)
        table.add_row(title, str(part["rows"]), f"{part['before']:.2f}", f"{part['after']:.2f}")
    out.print()
    out.print(table)
    out.print()
