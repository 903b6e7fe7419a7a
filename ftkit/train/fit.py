"""A Recipe carried out: data, model, adapter, tokens, training, saving. All it learns goes to the Sink."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit import manifest
from ftkit.data import Dataset, EncodedSet, Refusal, Template, load
from ftkit.recipe import Distillation, Fast, Recipe
from ftkit.recipe import engine as engines
from ftkit.train import preparing
from ftkit.train.checkpoints import Checkpoint, Checkpoints
from ftkit.train.job import Job
from ftkit.train.ranks import Ranks

if TYPE_CHECKING:
    from ftkit.models.load import LoadedModel
    from ftkit.train.trainer import FtkitTrainer

ROLL_BACKS = 3
"""How often a run whose loss goes wrong is taken back to a good checkpoint before it fails."""
ROLL_BACK_FACTOR = 1 / 3
"""What the learning rate is multiplied by each time."""

Publish = Callable[["LoadedModel"], None]


def fit(job: Job, publish: Publish, *, resume: bool = False) -> None:
    """Carry out the job's Recipe in its folder.

    Parameters
    ----------
    publish
        Called with the live model before the first step, so that others can use it between steps.
    resume
        Go on from the newest sound checkpoint in the folder; from the start where there is none.

    Raises
    ------
    FtkitError
        When the data, the model or the training cannot go on; with advice.
    Stopped
        When the person stopped before the first step.
    """
    recipe = job.recipe
    preparing.check_machine(recipe)
    engines.check(recipe)  # its errors come before anything is loaded
    backend = preparing.backend_of(job)
    job.stage("Reading the data")
    with job.ranks.first():
        dataset = load(recipe.data, offline=recipe.compute.offline, progress=job.stage)
    loaded = _load_model(job, backend)
    template = Template(
        loaded.tokenizer, system_prompt=recipe.data.system_prompt, template=recipe.data.template
    )
    if recipe.data.template:  # chat, evaluation and the saved tokenizer use the same
        loaded.tokenizer.chat_template = template.source
    if recipe.objective.reads == "prompts":
        _answer(job, loaded, dataset, publish, resume)
        job.quietly("Saving")
        _save(job, loaded, template)
        return
    job.stage("Turning the rows into tokens")
    with job.ranks.first():
        train, held_out, refused = preparing.tokens(job, dataset, template)
    del dataset  # only the tokens are needed from here on, and they may be on disk
    _imitate(job, loaded, backend, train, held_out, refused, template, publish, resume)


def _load_model(job: Job, backend: str) -> LoadedModel:
    """The model; that of a rank other than 0 takes no turns with other processes."""
    job.stage("Loading the training libraries")
    from ftkit.fast import allocator
    from ftkit.models.code import code_files, warning
    from ftkit.models.gate import Gate
    from ftkit.models.load import load_model
    from ftkit.models.unsloth_backend import builder

    recipe = job.recipe
    if isinstance(recipe.objective, Distillation):
        from ftkit.models.teacher import check_teacher

        with job.ranks.first():
            check_teacher(recipe, job.stage)
    build = builder(recipe) if backend == "unsloth" else None
    _seed(recipe.training.seed)  # a new head has random values
    with job.ranks.first(), allocator.for_weights():
        loaded = load_model(
            recipe.model, recipe.compute, progress=job.stage, build=build, head=recipe.objective.head
        )
    if job.ranks.number > 0:  # they compute together: rank 0 takes the machine's turn for all
        loaded.gate = Gate()
    for note in loaded.source.notes:
        job.note(note)
    if recipe.model.trust_remote_code and (code := code_files(loaded.source.path)):
        job.note(warning(code, trusted=True), "warning")
    return loaded


def _imitate(
    job: Job,
    loaded: LoadedModel,
    backend: str,
    train: EncodedSet,
    evaluation: EncodedSet | None,
    refused: tuple[Refusal, ...],
    template: Template,
    publish: Publish,
    resume: bool,
) -> None:
    """Train on texts, pairs or ratings, and save."""
    recipe, ranks = job.recipe, job.ranks
    job.stage("Preparing the model")
    _seed(recipe.training.seed)
    fast, recompute = recipe.compute.fast, "off"
    if backend == "unsloth":  # its layers and what they make again are its own; rows and loss are ftkit's
        from ftkit.models.unsloth_backend import make_trainable

        make_trainable(loaded, recipe)
        fast = Fast.of(False).model_copy(update={"loss": fast.loss})
    else:
        preparing.make_trainable(job, loaded, preparing.some_batches(train, loaded))
        recompute = preparing.recomputation(job, train)
    if ranks.number > 0:
        _seed(recipe.training.seed + ranks.number)  # dropout differs from rank to rank
    if recompute == "layers":
        loaded.model.enable_input_require_grads()

    from ftkit.fast.logprobs import LogProbs, choose
    from ftkit.train import holding as holdings
    from ftkit.train.trainer import FtkitTrainer

    holding = holdings.choose(recipe, ranks)
    fast = holding.fast(fast)
    for note in holding.notes:
        job.note(note)
    if recipe.training.sample_every and not holding.answers:
        job.note("No samples are made: the weights are split over the processes.")
    if recipe.objective.head == "score":
        way = LogProbs(False, None, "a reward model reads them through its own code")
    else:
        with ranks.first():  # it compiles
            way = choose(loaded.model, fast=fast, recompute=recompute)
    if backend == "unsloth":
        way = replace(way, reason="Unsloth's layers, rows padded")
    if fast.attention and not way.packed:
        job.note(f"Rows are padded: {way.reason}.", "warning")
    with ranks.first():
        teacher = preparing.teacher(job, way, fast)
    described = "; ".join(filter(None, [holding.describe(), way.describe()]))
    job.sink.emit("environment", facts=preparing.environment(loaded, described, backend, teacher))
    held_out = evaluation.rows if evaluation else []
    with ranks.first():  # what it keeps in the folder the others read
        reference = preparing.reference(job, loaded, way, (train.rows, held_out))

    def make(rate_scale: float | None) -> FtkitTrainer:
        return FtkitTrainer(
            job,
            loaded,
            way,
            train.rows,
            held_out,
            recompute=recompute,
            rate_scale=rate_scale,
            reference=reference,
            holding=holding,
            teacher=teacher,
        )

    holding.take(loaded.model)
    trainer = make(None)
    ranks.must_agree("the tokens of the training rows", train.tokens)
    ranks.must_agree("the number of batches", len(trainer.batches))
    job.sink.emit(
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
    # others would talk to it
    talks = recipe.objective.head == "words" and holding.answers
    _train(job, make, trainer, resume, loaded, publish if talks else None)
    job.quietly("Saving")
    with holding.weights(loaded.model, all_of_them=not loaded.adapted):
        if ranks.number == 0:
            _save(job, loaded, template)


def _answer(job: Job, loaded: LoadedModel, dataset: Dataset, publish: Publish, resume: bool) -> None:
    """Train on rewards for the model's own replies."""
    from ftkit.train.rewards import resolve
    from ftkit.train.rollouts import make_trainer, rows_of

    recipe = job.recipe
    resolve(getattr(recipe.objective, "rewards", ()))  # what is missing is said before anything is prepared
    rows = rows_of(dataset.train)
    few = dataset.held_out[: recipe.data.eval_rows] if recipe.training.evals else ()
    held_out = rows_of(few) if len(few) else []
    job.stage("Preparing the model")
    _seed(recipe.training.seed)
    preparing.make_trainable(job, loaded)
    job.sink.emit("environment", facts=preparing.environment(loaded, "TRL's own passes", "ftkit"))

    def make(rate_scale: float | None) -> Any:
        return make_trainer(job, loaded, rows, held_out, rate_scale)

    trainer = make(None)
    job.sink.emit(
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
    _train(job, make, trainer, resume, loaded, publish)


def _sound(
    checkpoints: Checkpoints, ranks: Ranks, at_most: int | None
) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint, as rank 0 sees it."""
    found, faults = checkpoints.newest(at_most=at_most) if ranks.number == 0 else (None, [])
    step = int(ranks.agreed(found.step if found else -1))
    return (checkpoints.at(step) if step >= 0 else None), faults


def _newest(job: Job, checkpoints: Checkpoints) -> Path | None:
    """Where a resumed run goes on; what is damaged is said."""
    found, faults = _sound(checkpoints, job.ranks, None)
    going_on = f"from step {found.step}" if found else "from the start, since no checkpoint is sound"
    for fault in faults:
        job.note(f"A checkpoint is damaged ({fault}): going on {going_on}.", "warning")
    return found.path if found else None


def _train(
    job: Job,
    make: Callable[[float | None], Any],
    trainer: Any,
    resume: bool,
    loaded: LoadedModel,
    publish: Publish | None,
) -> None:
    """Train; where the loss goes wrong and the Recipe says so, from an earlier checkpoint at a lower rate."""
    from ftkit.fast import pool
    from ftkit.train.steps import BadLossError, checkpoints_of
    from ftkit.train.trainer import run_trainer

    checkpoints = checkpoints_of(job.recipe, job.folder)
    start_at = _newest(job, checkpoints) if resume else None
    job.stage("Training")
    if publish is not None:
        publish(loaded)
    for attempt in range(ROLL_BACKS + 1):
        try:
            with pool.in_use():
                run_trainer(trainer, start_at)
            return
        except BadLossError as bad:
            if job.recipe.training.on_bad_loss == "stop" or attempt == ROLL_BACKS:
                raise
            good, _ = _sound(checkpoints, job.ranks, bad.last_good)
            if good is None:
                raise
            if job.ranks.number == 0:
                checkpoints.drop_after(good.step)
            scale = (trainer.rate_scale or 1.0) * ROLL_BACK_FACTOR
            rate = job.recipe.training.learning_rate * scale
            going_on = f"Back to step {good.step}, and on with a peak learning rate of {rate:.3g}."
            job.note(f"{bad.message} {going_on}", "warning")
            start_at = good.path
            del trainer  # its optimizer's memory goes before the next one is made, and its hooks on weights
            gc.collect()
            trainer = make(scale)


def output_folder(recipe: Recipe, folder: Path) -> Path:
    """Where the result of `recipe` is saved inside its run folder."""
    return folder / recipe.method.saves


def _longest(train: EncodedSet) -> dict[str, int]:
    """The row that a step needs the most memory for."""
    row = train.rows[int(train.lengths.argmax())]
    return {"row": row.row, "tokens": len(row.ids)}


def _seed(seed: int) -> None:
    from transformers import set_seed

    set_seed(seed)


def _save(job: Job, loaded: LoadedModel, template: Template) -> None:
    from ftkit.models.adapters import save_adapter

    target = output_folder(job.recipe, job.folder)
    with loaded.gate.turn("saving"), manifest.building(target, {"recipe": job.recipe.model.source}) as work:
        save_adapter(loaded, work)
        loaded.tokenizer.save_pretrained(work)
        template.save(work)
