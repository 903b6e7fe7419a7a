"""`ftkit demo`: fine-tune a small model on a small task and measure on unseen rows that it learned."""

from __future__ import annotations

import json
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
    _write(run.path / "report.json", report)
    _show_sample(before, after)
    _show_scores(before, after)
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

    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise RunError(
            f"{path} is not a run's folder.", "Move it away, or give another folder with --folder."
        )
    if not path.exists() or not any(path.iterdir()):
        return
    if not all((path / name).is_file() for name in ("recipe.yaml", "events.jsonl")):
        raise RunError(
            f"{path} holds something that is not a run of ftkit's.",
            "Move it away, or give another folder with --folder.",
        )
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
        `tokens_per_second` is over the whole training, evaluations of the loss left out; `peak_memory_gb` the
        most that the process held at any time, or the GPU where the model is on one (GB of 1e9 bytes);
        `seconds` the whole demo, of which `training_seconds` and `evaluation_seconds`.
    """
    steps = [event for event in run.events() if event["kind"] == "train"]
    environment = run.path / "environment.json"
    gpu = max((step["gpu_memory_gb"] or 0.0 for step in steps), default=0.0)
    process = peak_process_gb()
    return {
        "exact_match_before": before.score,
        "exact_match_after": after.score,
        "held_out_rows": len(after.rows),
        "tokens_per_second": _tokens_per_second(steps),
        "peak_memory_gb": gpu if loaded.device.startswith("cuda") else process,
        "peak_process_memory_gb": process,
        "peak_gpu_memory_gb": gpu or None,
        **seconds,
        "training_seconds": steps[-1]["elapsed"] if steps else 0.0,
        "model_source": loaded.source.describe(),
        "by_before": before.by,
        "by_after": after.by,
        "before_is": "the trained model with its adapter switched off: the weights it started from",
        "device": loaded.device,
        "dtype": loaded.dtype,
        "recipe": run.recipe.model_dump(mode="json"),
        "environment": json.loads(environment.read_text()) if environment.exists() else None,
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


def _tokens_per_second(steps: Sequence[dict[str, Any]]) -> float:
    """Tokens of all logged steps over the time they took."""
    timed = [(step["tokens"], step["tokens_per_second"]) for step in steps if step["tokens_per_second"]]
    seconds = sum(tokens / speed for tokens, speed in timed)
    return sum(tokens for tokens, _ in timed) / seconds if seconds else 0.0


def _write(path: Path, report: dict[str, Any]) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(known | report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _show_sample(before: Evaluation, after: Evaluation) -> None:
    """One held-out row: of an unseen sentence form and learned, where there is one."""

    def told(index: int) -> tuple[bool, bool]:
        learned = after.rows[index]["correct"] and not before.rows[index]["correct"]
        return learned, not after.rows[index]["extra"].get("seen_form", False)

    best = max(range(len(after.rows)), key=told)
    row = after.rows[best]
    table = Table.grid(padding=(0, 2))
    for name, text in (
        ("sentence", row["prompt"]),
        ("expected", row["expected"]),
        ("before", before.rows[best]["got"]),
        ("after", row["got"]),
    ):
        table.add_row(f"[bold]{name}[/]", escape(printable(str(text))))
    out.print("\nA held-out row", style="bold")
    out.print(table)


def _show_scores(before: Evaluation, after: Evaluation) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("exact match", "before", "after"):
        table.add_column(name, justify="left" if name == "exact match" else "right")
    table.add_row("all held-out rows", f"{before.score:.2f}", f"{after.score:.2f}")
    for name in after.by:
        table.add_row(name, f"{before.by[name]:.2f}", f"{after.by[name]:.2f}")
    out.print()
    out.print(table)
    out.print()
