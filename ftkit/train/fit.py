"""A Recipe carried out: data, model, adapter, tokens, training, saving. All it learns goes to the Sink."""

from __future__ import annotations

import gc
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit import manifest
from ftkit.data import Dataset, EncodedSet, Refusal, Template, encode_all, load
from ftkit.data.preflight import preflight
from ftkit.data.sides import together as row_texts
from ftkit.errors import ModelError, RunError
from ftkit.recipe import Distillation, Fast, PrefixTuning, PromptTuning, Recipe
from ftkit.recipe import engine as engines
from ftkit.recipe.optimizers import why_not
from ftkit.train.checkpoints import Checkpoint, Checkpoints
from ftkit.train.protocol import Control, Sink, Stopped
from ftkit.train.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from ftkit.data import Encoded
    from ftkit.fast.logprobs import LogProbs
    from ftkit.models.load import LoadedModel
    from ftkit.train.objectives.base import Known
    from ftkit.train.teacher import Teacher
    from ftkit.train.trainer import FtkitTrainer

ROLL_BACKS = 3
"""How often a run whose loss goes wrong is taken back to a good checkpoint before it fails."""
ROLL_BACK_FACTOR = 1 / 3
"""What the learning rate is multiplied by each time."""

Publish = Callable[["LoadedModel"], None]


def fit(
    recipe: Recipe,
    folder: Path,
    sink: Sink,
    control: Control,
    publish: Publish,
    resume: bool = False,
    ranks: Ranks = ALONE,
) -> None:
    """Carry out `recipe` in `folder`.

    Parameters
    ----------
    folder
        The run folder; `checkpoints/` and `adapter/` or `model/` are written into it.
    publish
        Called with the live model before the first step, so that others can use it between steps.
    resume
        Go on from the newest sound checkpoint in the folder; from the start where there is none.
    ranks
        Which of the processes that train together this is. Rank 0 writes into the folder.

    Raises
    ------
    FtkitError
        When the data, the model or the training cannot go on; with advice.
    Stopped
        When the person stopped before the first step.
    """
    check_machine(recipe)
    progress = _Stages(sink, control)
    engines.check(recipe)  # its errors come before anything is loaded
    backend = _backend(recipe, sink, progress)
    progress("Reading the data", None)
    with ranks.first():
        dataset = load(recipe.data, offline=recipe.compute.offline, progress=progress)
    progress("Loading the training libraries", None)
    from ftkit.fast.allocator import keep_large_buffers_apart
    from ftkit.models.code import code_files, warning
    from ftkit.models.gate import Gate
    from ftkit.models.load import load_model
    from ftkit.models.unsloth_backend import builder, make_trainable

    keep_large_buffers_apart()

    if isinstance(recipe.objective, Distillation):
        from ftkit.models.teacher import check_teacher

        with ranks.first():
            check_teacher(recipe, progress)
    head = recipe.objective.head
    build = builder(recipe) if backend == "unsloth" else None
    _seed(recipe.training.seed)  # a new head has random values
    with ranks.first():
        loaded = load_model(recipe.model, recipe.compute, progress=progress, build=build, head=head)
    if ranks.number > 0:  # they compute together: rank 0 takes the machine's turn for all
        loaded.gate = Gate()
    for note in loaded.source.notes:
        sink.emit("note", level="info", text=note)
    if recipe.model.trust_remote_code and (code := code_files(loaded.source.path)):
        sink.emit("note", level="warning", text=warning(code, trusted=True))
    progress("Turning the rows into tokens", None)
    template = Template(
        loaded.tokenizer, system_prompt=recipe.data.system_prompt, template=recipe.data.template
    )
    if recipe.data.template:  # chat, evaluation and the saved tokenizer use the same
        loaded.tokenizer.chat_template = template.source
    if recipe.objective.reads == "prompts":
        _roll_out(recipe, loaded, dataset, folder, sink, control, publish, resume, progress, ranks)
        progress.quietly("Saving", None)
        _save(loaded, template, recipe, folder)
        return
    with ranks.first():
        train, evaluation, refused = _tokens(dataset, template, recipe, sink, progress)
    del dataset  # only the tokens are needed from here on, and they may be on disk
    progress("Preparing the model", None)
    _seed(recipe.training.seed)
    fast, recompute = recipe.compute.fast, "off"
    if backend == "unsloth":  # its layers and what they make again are its own; rows and loss are ftkit's
        make_trainable(loaded, recipe)
        fast = Fast.of(False).model_copy(update={"loss": fast.loss})
    else:
        _make_trainable(loaded, recipe, sink, _some_batches(train, loaded))
        recompute = _recomputation(recipe, train, sink, ranks)
    if ranks.number > 0:
        _seed(recipe.training.seed + ranks.number)  # dropout differs from rank to rank
    if recompute == "layers":
        loaded.model.enable_input_require_grads()

    from ftkit.fast.logprobs import LogProbs, choose
    from ftkit.train import holding as holdings
    from ftkit.train.steps import checkpoints_of
    from ftkit.train.trainer import FtkitTrainer

    holding = holdings.choose(recipe, ranks)
    fast = holding.fast(fast)
    unanswered = ("No samples are made: the weights are split over the processes.",)
    asked = bool(recipe.training.sample_every) and not holding.answers
    for note in (*holding.notes, *(unanswered if asked else ())):
        sink.emit("note", level="info", text=note)
    if head == "score":
        way = LogProbs(False, None, "a reward model reads them through its own code")
    else:
        with ranks.first():  # it compiles
            way = choose(loaded.model, fast=fast, recompute=recompute)
    if backend == "unsloth":
        way = replace(way, reason="Unsloth's layers, rows padded")
    if fast.attention and not way.packed:
        sink.emit("note", level="warning", text=f"Rows are padded: {way.reason}.")
    with ranks.first():
        teacher = _teacher(recipe, way, fast, progress)
    described = "; ".join(filter(None, [holding.describe(), way.describe()]))
    sink.emit("environment", facts=_environment(loaded, described, backend, teacher))
    held_out = evaluation.rows if evaluation else []
    with ranks.first():  # what it keeps in the folder the others read
        reference = _reference(recipe, loaded, way, (train.rows, held_out), folder, progress, sink)

    def make(rate_scale: float | None) -> FtkitTrainer:
        return FtkitTrainer(
            loaded,
            way,
            train.rows,
            held_out,
            recipe,
            folder,
            sink,
            control,
            recompute,
            rate_scale,
            reference,
            ranks,
            holding,
            teacher,
        )

    holding.take(loaded.model)
    trainer = make(None)
    ranks.must_agree("the tokens of the training rows", train.tokens)
    ranks.must_agree("the number of batches", len(trainer.batches))
    sink.emit(
        "plan",
        train_rows=len(trainer.train_dataset),
        eval_rows=len(trainer.eval_dataset or ()),
        train_tokens=train.tokens,
        trained_tokens=train.trained_tokens,
        batches=len(trainer.batches),
        packing_efficiency=trainer.batches.efficiency,
        longest=_longest(train),
        refused=[asdict(refusal) for refusal in refused[:100]],
    )
    checkpoints = checkpoints_of(recipe, folder)
    start_at = _newest(checkpoints, sink, ranks) if resume else None
    progress("Training", None)
    if head == "words" and holding.answers:  # others would talk to it
        publish(loaded)
    _train(make, trainer, start_at, checkpoints, recipe, sink, ranks)
    progress.quietly("Saving", None)
    with holding.weights(loaded.model, all_of_them=not loaded.adapted):
        if ranks.number == 0:
            _save(loaded, template, recipe, folder)


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


def _backend(recipe: Recipe, sink: Sink, progress: _Stages) -> str:
    """Whose layers train; Unsloth is imported here, before transformers is."""
    from ftkit.models.unsloth_backend import import_unsloth, pick_backend

    backend, note = pick_backend(recipe)
    if note:
        sink.emit("note", level="warning", text=note)
    if backend == "unsloth":
        progress("Importing Unsloth", None)
        import_unsloth()
    return backend


def _roll_out(
    recipe: Recipe,
    loaded: LoadedModel,
    dataset: Dataset,
    folder: Path,
    sink: Sink,
    control: Control,
    publish: Publish,
    resume: bool,
    progress: _Stages,
    ranks: Ranks,
) -> None:
    """Train on rewards for the model's own replies."""
    from ftkit.train.rewards import resolve
    from ftkit.train.rollouts import make_trainer, rows_of
    from ftkit.train.steps import checkpoints_of

    resolve(getattr(recipe.objective, "rewards", ()))  # what is missing is said before anything is prepared
    rows = rows_of(dataset.train)
    few = dataset.held_out[: recipe.data.eval_rows] if recipe.training.evals else ()
    held_out = rows_of(few) if len(few) else []
    progress("Preparing the model", None)
    _seed(recipe.training.seed)
    _make_trainable(loaded, recipe, sink)
    sink.emit("environment", facts=_environment(loaded, "TRL's own passes", "ftkit"))

    def make(rate_scale: float | None) -> Any:
        return make_trainer(loaded, rows, held_out, recipe, folder, sink, control, rate_scale)

    trainer = make(None)
    sink.emit(
        "plan",
        train_rows=len(rows),
        eval_rows=len(held_out),
        train_tokens=0,
        trained_tokens=0,
        batches=len(trainer.batches),
        packing_efficiency=1.0,
        longest=None,
        refused=[asdict(refusal) for refusal in dataset.refused[:100]],
    )
    checkpoints = checkpoints_of(recipe, folder)
    start_at = _newest(checkpoints, sink, ranks) if resume else None
    progress("Training", None)
    publish(loaded)
    _train(make, trainer, start_at, checkpoints, recipe, sink, ranks)


def _sound(
    checkpoints: Checkpoints, ranks: Ranks, at_most: int | None
) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint, as rank 0 sees it."""
    found, faults = checkpoints.newest(at_most=at_most) if ranks.number == 0 else (None, [])
    step = int(ranks.agreed(found.step if found else -1))
    return (checkpoints.at(step) if step >= 0 else None), faults


def _newest(checkpoints: Checkpoints, sink: Sink, ranks: Ranks) -> Path | None:
    """Where a resumed run goes on; what is damaged is said."""
    found, faults = _sound(checkpoints, ranks, None)
    going_on = f"from step {found.step}" if found else "from the start, since no checkpoint is sound"
    for fault in faults:
        sink.emit("note", level="warning", text=f"A checkpoint is damaged ({fault}): going on {going_on}.")
    return found.path if found else None


def _train(
    make: Callable[[float | None], Any],
    trainer: Any,
    start_at: Path | None,
    checkpoints: Checkpoints,
    recipe: Recipe,
    sink: Sink,
    ranks: Ranks,
) -> None:
    """Train; where the loss goes wrong and the Recipe says so, from an earlier checkpoint at a lower rate."""
    from ftkit.train.steps import BadLossError
    from ftkit.train.trainer import run_trainer

    for attempt in range(ROLL_BACKS + 1):
        try:
            run_trainer(trainer, start_at)
            return
        except BadLossError as bad:
            if recipe.training.on_bad_loss == "stop" or attempt == ROLL_BACKS:
                raise
            good, _ = _sound(checkpoints, ranks, bad.last_good)
            if good is None:
                raise
            if ranks.number == 0:
                checkpoints.drop_after(good.step)
            scale = (trainer.rate_scale or 1.0) * ROLL_BACK_FACTOR
            rate = recipe.training.learning_rate * scale
            going_on = f"Back to step {good.step}, and on with a peak learning rate of {rate:.3g}."
            sink.emit("note", level="warning", text=f"{bad.message} {going_on}")
            start_at = good.path
            del trainer  # its optimizer's memory goes before the next one is made, and its hooks on weights
            gc.collect()
            trainer = make(scale)


def output_folder(recipe: Recipe, folder: Path) -> Path:
    """Where the result of `recipe` is saved inside its run folder."""
    return folder / recipe.method.saves


class _Stages:
    """Progress of the preparation as events; a place where Pause and Stop take effect."""

    def __init__(self, sink: Sink, control: Control) -> None:
        self.sink = sink
        self.control = control
        self.last: tuple[str, float | None] | None = None

    def __call__(self, text: str, fraction: float | None = None) -> None:
        self.control.checkpoint()
        if self.control.stopping:
            raise Stopped
        self.quietly(text, fraction)

    def quietly(self, text: str, fraction: float | None) -> None:
        if (text, fraction) != self.last:  # downloads report many times a second
            self.last = (text, fraction)
            self.sink.emit("stage", text=text, fraction=fraction)


def _tokens(
    dataset: Dataset, template: Template, recipe: Recipe, sink: Sink, progress: _Stages
) -> tuple[EncodedSet, EncodedSet | None, tuple[Refusal, ...]]:
    from ftkit.models.cache import root

    limits: dict[str, Any] = {
        "objective": recipe.objective,
        "max_length": recipe.data.max_length,
        "cache": root() / "tokens",
    }
    train = encode_all(dataset.train, template, too_long=recipe.data.too_long, progress=progress, **limits)
    held_out = dataset.held_out[: recipe.data.eval_rows] if recipe.training.evals else ()
    evaluation = (
        encode_all(held_out, template, too_long="drop", progress=progress, **limits) if held_out else None
    )
    if train.shortened:
        cut = (
            f"{len(train.shortened)} rows were longer than {recipe.data.max_length} tokens and were shortened"
        )
        sink.emit("note", level="info", text=f"{cut} by whole exchanges (too_long: {recipe.data.too_long}).")
    refused = (*dataset.refused, *train.refused)
    if refused:
        first = "; ".join(f"{dataset.where(refusal.row)}: {refusal.reason}" for refusal in refused[:3])
        sink.emit("note", level="warning", text=f"{len(refused)} rows are left out ({first}).")
    for finding in preflight(
        dataset.train,
        dataset.held_out,
        train.rows,
        ends=template.end_ids(),
        untrained=train.untrained,
        progress=progress,
    ):
        rows = f" (rows {', '.join(map(str, finding.rows[:5]))}{' …' if finding.count > 5 else ''})"
        where = rows if finding.rows else ""
        sink.emit("note", level=finding.level, text=f"{finding.title}{where}: {finding.message}")
    return train, evaluation, refused


def _make_trainable(
    loaded: LoadedModel, recipe: Recipe, sink: Sink, batches: Iterator[Any] | None = None
) -> None:
    """As the Recipe's method says; an adapter that was made for another model is told of."""
    from ftkit.models.adapters import apply_method, made_for_another

    apply_method(loaded, recipe.method, batches)
    start_from = getattr(recipe.method, "start_from", None)
    if start_from and (note := made_for_another(loaded, Path(start_from).expanduser())):
        sink.emit("note", level="warning", text=note)


def _some_batches(train: EncodedSet, loaded: LoadedModel, count: int = 16, rows: int = 4) -> Iterator[Any]:
    """Padded batches of the first rows, for first values that come from the data."""
    from ftkit.data.batches import PaddedCollator

    collate = PaddedCollator(loaded.tokenizer.pad_token_id)
    for start in range(0, min(len(train.rows), count * rows), rows):
        batch = collate([train.rows[index] for index in range(start, min(start + rows, len(train.rows)))])
        yield {name: batch[name].to(loaded.device) for name in ("input_ids", "attention_mask")}


def _recomputation(recipe: Recipe, train: EncodedSet, sink: Sink, ranks: Ranks) -> str:
    """What the backward pass makes again: as asked, or the least that fits the memory there is."""
    asked = recipe.compute.gradient_checkpointing
    if isinstance(recipe.method, PromptTuning | PrefixTuning):
        return "off"
    if asked != "auto":
        return asked
    from ftkit.models.estimate import LEVELS, recomputation

    together = train.lengths.reshape(-1, row_texts(recipe.objective)).sum(1)
    long = int(np.quantile(together, 0.95, method="lower"))
    chosen, why = recomputation(recipe, row_tokens=long)
    chosen = LEVELS[int(ranks.agreed(LEVELS.index(chosen)))]
    if chosen != "off":
        sink.emit("note", level="info", text=why)
    return chosen


def _reference(
    recipe: Recipe,
    loaded: LoadedModel,
    way: LogProbs,
    parts: tuple[Sequence[Encoded], Sequence[Encoded]],
    folder: Path,
    progress: _Stages,
    sink: Sink,
) -> tuple[Known | None, Known | None]:
    """What the model says of training and held-out rows before training, where it cannot be asked later."""
    from ftkit.train.objectives import choose as choose_objective
    from ftkit.train.reference import FILE, is_the_base, remember
    from ftkit.train.trainer import layout

    objective, lay = choose_objective(recipe), layout(loaded, way)
    if not objective.needs_reference or is_the_base(loaded, way, parts[0][0], lay):
        return None, None
    text = "Before training the model is asked about every row: these answers are what it is held to."
    sink.emit("note", level="info", text=text)
    train, held_out = (objective.read_by_reference(rows) for rows in parts)
    asked = {f"train.{name}": rows for name, rows in train.items()}
    asked |= {f"held_out.{name}": rows for name, rows in held_out.items()}
    budget = recipe.training.batch_tokens or recipe.training.batch_size * recipe.data.max_length
    found = remember(loaded, way, asked, lay, batch_tokens=budget, file=folder / FILE, progress=progress)
    return (
        {name: found[f"train.{name}"] for name in train},
        {name: found[f"held_out.{name}"] for name in held_out},
    )


def _teacher(recipe: Recipe, way: LogProbs, fast: Fast, progress: _Stages) -> Teacher | None:
    """The model that this one learns from, where its objective has one."""
    if not isinstance(recipe.objective, Distillation):
        return None
    from ftkit.models.teacher import load_teacher
    from ftkit.train.teacher import Teacher

    progress("Loading the teacher", None)
    return Teacher.of(load_teacher(recipe, progress), fast, packed=way.packed)


def _longest(train: EncodedSet) -> dict[str, int]:
    """The row that a step needs the most memory for."""
    row = train.rows[int(train.lengths.argmax())]
    return {"row": row.row, "tokens": len(row.ids)}


def _seed(seed: int) -> None:
    from transformers import set_seed

    set_seed(seed)


def _save(loaded: LoadedModel, template: Template, recipe: Recipe, folder: Path) -> None:
    from ftkit.models.adapters import save_adapter

    target = output_folder(recipe, folder)
    with loaded.gate.turn("saving"), manifest.building(target, {"recipe": recipe.model.source}) as work:
        save_adapter(loaded, work)
        loaded.tokenizer.save_pretrained(work)
        template.save(work)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout, or a package that this run does without
        return "not installed"


def _environment(
    loaded: LoadedModel, fast: str, backend: str, teacher: Teacher | None = None
) -> dict[str, Any]:
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
