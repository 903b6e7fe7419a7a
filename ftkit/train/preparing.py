"""What is made ready before the first step: tokens, the model as its method says, what it is held to."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.data import Dataset, EncodedSet, Refusal, Template, encode_all
from ftkit.data.preflight import preflight
from ftkit.data.sides import together as row_texts
from ftkit.errors import ModelError, RunError
from ftkit.recipe import Distillation, Fast, PrefixTuning, PromptTuning, Recipe
from ftkit.recipe.optimizers import why_not
from ftkit.train.job import Job

if TYPE_CHECKING:
    from ftkit.data import Encoded
    from ftkit.fast.logprobs import LogProbs
    from ftkit.models.load import LoadedModel
    from ftkit.train.objectives.base import Known
    from ftkit.train.teacher import Teacher


def check_machine(recipe: Recipe) -> None:
    """Refuse what this machine does not have, before anything is read or loaded.

    Raises
    ------
    FtkitError
        With the reason.
    """
    from ftkit.models import precision
    from ftkit.models.load import pick_device, pick_dtype
    from ftkit.models.methods import why_not as cannot_train

    name = recipe.training.optimizer
    if reason := why_not(name):
        raise RunError(
            f"training.optimizer {name!r} {reason}.", "Install it, or choose another training.optimizer."
        )
    device = pick_device(recipe.compute)
    precision.check(recipe.model, recipe.compute, device)
    dtype = pick_dtype(recipe.compute, device)
    if reason := cannot_train(recipe.method, recipe.model.quantization or "", dtype):
        raise ModelError(f"{reason}.", "Set compute.dtype to float32, or choose another method.")


def backend_of(job: Job) -> str:
    """Whose layers train; Unsloth is imported here, before transformers is."""
    from ftkit.models.unsloth_backend import import_unsloth, pick_backend

    backend, note = pick_backend(job.recipe)
    if note:
        job.note(note, "warning")
    if backend == "unsloth":
        job.stage("Importing Unsloth")
        import_unsloth()
    return backend


def tokens(
    job: Job, dataset: Dataset, template: Template
) -> tuple[EncodedSet, EncodedSet | None, tuple[Refusal, ...]]:
    """The rows to train on and those held out, as tokens; those that are refused. Findings become notes."""
    from ftkit.models.cache import root

    recipe = job.recipe
    limits: dict[str, Any] = {
        "objective": recipe.objective,
        "max_length": recipe.data.max_length,
        "cache": root() / "tokens",
    }
    train = encode_all(dataset.train, template, too_long=recipe.data.too_long, progress=job.stage, **limits)
    held_out = dataset.held_out[: recipe.data.eval_rows] if recipe.training.evals else ()
    evaluation = (
        encode_all(held_out, template, too_long="drop", progress=job.stage, **limits) if held_out else None
    )
    if train.shortened:
        cut = (
            f"{len(train.shortened)} rows were longer than {recipe.data.max_length} tokens and were shortened"
        )
        job.note(f"{cut} by whole exchanges (too_long: {recipe.data.too_long}).")
    refused = (*dataset.refused, *train.refused)
    if refused:
        first = "; ".join(f"{dataset.where(refusal.row)}: {refusal.reason}" for refusal in refused[:3])
        job.note(f"{len(refused)} rows are left out ({first}).", "warning")
    for finding in preflight(
        dataset.train,
        dataset.held_out,
        train.rows,
        ends=template.end_ids(),
        untrained=train.untrained,
        progress=job.stage,
    ):
        rows = f" (rows {', '.join(map(str, finding.rows[:5]))}{' …' if finding.count > 5 else ''})"
        where = rows if finding.rows else ""
        job.note(f"{finding.title}{where}: {finding.message}", finding.level)
    return train, evaluation, refused


def make_trainable(job: Job, loaded: LoadedModel, batches: Iterator[Any] | None = None) -> None:
    """As the Recipe's method says; an adapter that was made for another model is told of."""
    from ftkit.models.adapters import apply_method, made_for_another

    apply_method(loaded, job.recipe.method, batches)
    start_from = getattr(job.recipe.method, "start_from", None)
    if start_from and (note := made_for_another(loaded, Path(start_from).expanduser())):
        job.note(note, "warning")


def some_batches(train: EncodedSet, loaded: LoadedModel, count: int = 16, rows: int = 4) -> Iterator[Any]:
    """Padded batches of the first rows, for first values that come from the data."""
    from ftkit.data.batches import PaddedCollator

    collate = PaddedCollator(loaded.tokenizer.pad_token_id)
    for start in range(0, min(len(train.rows), count * rows), rows):
        batch = collate([train.rows[index] for index in range(start, min(start + rows, len(train.rows)))])
        yield {name: batch[name].to(loaded.device) for name in ("input_ids", "attention_mask")}


def recomputation(job: Job, train: EncodedSet) -> str:
    """What the backward pass makes again: as asked, or the least that fits the memory there is."""
    recipe = job.recipe
    asked = recipe.compute.gradient_checkpointing
    if isinstance(recipe.method, PromptTuning | PrefixTuning):
        return "off"
    if asked != "auto":
        return asked
    from ftkit.models.estimate import LEVELS
    from ftkit.models.estimate import recomputation as least

    together = train.lengths.reshape(-1, row_texts(recipe.objective)).sum(1)
    long = int(np.quantile(together, 0.95, method="lower"))
    chosen, why = least(recipe, row_tokens=long)
    chosen = LEVELS[int(job.ranks.agreed(LEVELS.index(chosen)))]
    if chosen != "off":
        job.note(why)
    return chosen


def reference(
    job: Job, loaded: LoadedModel, way: LogProbs, parts: tuple[Sequence[Encoded], Sequence[Encoded]]
) -> tuple[Known | None, Known | None]:
    """What the model says of training and held-out rows before training, where it cannot be asked later."""
    from ftkit.train.objectives import choose as choose_objective
    from ftkit.train.reference import FILE, is_the_base, remember
    from ftkit.train.trainer import layout

    recipe = job.recipe
    objective, lay = choose_objective(recipe), layout(loaded, way)
    if not objective.needs_reference or is_the_base(loaded, way, parts[0][0], lay):
        return None, None
    text = "Before training the model is asked about every row: these answers are what it is held to."
    job.note(text)
    train, held_out = (objective.read_by_reference(rows) for rows in parts)
    asked = {f"train.{name}": rows for name, rows in train.items()}
    asked |= {f"held_out.{name}": rows for name, rows in held_out.items()}
    budget = recipe.training.batch_tokens or recipe.training.batch_size * recipe.data.max_length
    found = remember(loaded, way, asked, lay, batch_tokens=budget, file=job.folder / FILE, progress=job.stage)
    return (
        {name: found[f"train.{name}"] for name in train},
        {name: found[f"held_out.{name}"] for name in held_out},
    )


def teacher(job: Job, way: LogProbs, fast: Fast) -> Teacher | None:
    """The model that this one learns from, where its objective has one."""
    if not isinstance(job.recipe.objective, Distillation):
        return None
    from ftkit.models.teacher import load_teacher
    from ftkit.train.teacher import Teacher

    job.stage("Loading the teacher")
    return Teacher.of(load_teacher(job.recipe, job.stage), fast, packed=way.packed)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout, or a package that this run does without
        return "not installed"


def environment(
    loaded: LoadedModel, fast: str, backend: str, teacher: Teacher | None = None
) -> dict[str, Any]:
    """What a run ran on and with, for its `environment` event."""
    packages = ["ftkit", "torch", "transformers", "peft", "accelerate", "datasets"]
    packages += ["unsloth", "unsloth_zoo"] if backend == "unsloth" else []
    trainable = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in packages},
        "device": loaded.device,
        "dtype": loaded.dtype,
        "backend": backend,
        "fast": fast,
        "model_source": loaded.source.describe(),
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "trainable_parameters": trainable,
    } | ({"teacher": teacher.loaded.source.describe()} if teacher else {})
