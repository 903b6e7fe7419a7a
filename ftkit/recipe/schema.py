"""The Recipe: one typed, strict, serialisable description of a fine-tune.

A field's docstring is its tooltip in the panels and its line in the reference. Choices that carry
fields of their own (the method, the objective) are discriminated unions on `type`: a new one is a new
class here and nothing else. Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ftkit.errors import RecipeError
from ftkit.folders import is_device
from ftkit.recipe._base import Fraction, Lines, NonNegativeInt, PositiveInt, Section
from ftkit.recipe.methods import LoRA, Method, PrefixTuning, PromptTuning
from ftkit.recipe.objectives import SFT, Distillation, Objective
from ftkit.recipe.optimizers import OPTIMIZERS, SCHEDULES, OptimizerName, ScheduleName, check_settings
from ftkit.recipe.rows import are_rows, save_rows


class Model(Section):
    """Which model to start from."""

    source: Annotated[str, Field(min_length=1)] = "starter"
    """`starter` (a small chat model ftkit fetches by itself), a Hub id such as `org/name`, or a local folder
    or GGUF file."""
    revision: str | None = None
    """Branch, tag or commit of a Hub model. Empty: its main branch."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Leave off unless you have read that code."""
    quantization: Literal["8bit", "4bit", "int8", "fp8", "hqq8", "hqq4", "hqq3", "hqq2"] | None = None
    """Load the linear layers in fewer bits, for an adapter to be trained on (QLoRA, arXiv:2305.14314): `8bit`
    and `4bit` by bitsandbytes, `int8` and `fp8` by torchao, `hqq8` to `hqq2` by HQQ. Empty: whole, or as the
    checkpoint was packed (GPTQ, AWQ)."""
    new_tokens: tuple[str, ...] = ()
    """Tokens to add to the vocabulary, such as <tool>. Each begins as the mean of the pieces that it was
    written with before."""


TEMPLATES = ("chatml", "alpaca", "zephyr", "llama2", "llama3", "mistral", "gemma", "phi3", "plain")
"""Chat templates for models that have none."""


Mix = Literal["concat", "interleave_under", "interleave_over"]


class Source(Section):
    """Rows, and how they are written."""

    source: Annotated[str, Field(min_length=1)] = "starter:extract"
    """`starter:extract`, `starter:persona`, a Hub id, or a file (json, jsonl, csv, tsv, parquet, arrow, txt;
    also .gz or .zst), or a folder of files or with a dataset_info.json."""
    subset: str | None = None
    """Configuration of a Hub dataset that has several; or the dataset's name in a dataset_info.json, or
    several names with commas between them."""
    split: str = "train"
    """Split of a Hub dataset to train on."""
    format: str | None = None
    """Row format, such as `alpaca`, `messages` or `preference`. Empty: recognised from the rows."""
    columns: dict[str, str] = {}  # noqa: RUF012  pydantic copies it
    """Which column plays which role, such as prompt: question. Roles left out are recognised."""
    tags: dict[str, str] = {}  # noqa: RUF012
    """Names inside a conversation's turns, such as role_tag: speaker. Empty: recognised."""
    max_rows: PositiveInt | None = None
    """Use only the first so many rows; no more of a Hub dataset are fetched. Empty: all."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often its rows are drawn, beside the other datasets' weights, where datasets are interleaved."""


class Data(Source):
    """Which rows to learn from and which to hold out."""

    mixed_with: tuple[Source, ...] = ()
    """Further datasets to learn from in the same run, each with its own source, format and columns."""
    mix: Mix = "concat"
    """Several datasets: take all rows of each, or draw from them by their weights until the first is used up
    (`interleave_under`) or until every one has been seen whole, repeating the others (`interleave_over`)."""
    held_out_source: str | None = None
    """File, starter set or Hub id with the held-out rows. Empty: the starter set's own held-out rows, or
    `held_out_fraction` of the training rows."""
    held_out_fraction: Fraction = 0.1
    """Share of the rows kept aside for the evaluation loss when there is no held-out source."""
    eval_rows: NonNegativeInt = 48
    """At most so many held-out rows are used for the evaluation loss during training. 0: no evaluation."""
    max_length: PositiveInt = 1024
    """Longest conversation, in tokens. Longer rows follow `too_long`."""
    too_long: Literal["drop", "keep_end", "keep_start", "split", "error"] = "drop"
    """A row longer than `max_length`: leave it out and say so, keep its last or first exchanges, split it
    between exchanges, or refuse to start. No answer is ever cut."""
    template: Annotated[str | None, Field(examples=list(TEMPLATES))] = None
    """Chat template instead of the model's own: `chatml`, `alpaca`, `zephyr`, `llama2`, `llama3`, `mistral`,
    `gemma`, `phi3`, `plain`, or a Jinja file. Empty: its own."""
    system_prompt: str | None = None
    """Put this system message before every conversation that has none."""
    seed: int = 42
    """Seed of the split into training and held-out rows."""

    def head(self, rows: int) -> Data:
        """At most so many rows, of the first dataset alone: to look at."""
        few = min(rows, self.max_rows or rows)
        return self.model_copy(update={"max_rows": few, "mixed_with": ()})


class Training(Section):
    """How long and how fast to learn."""

    epochs: Annotated[float, Field(gt=0)] = 2.0
    """Passes over the training rows."""
    max_steps: PositiveInt | None = None
    """Stop after so many steps, whatever `epochs` says."""
    batch_size: PositiveInt = 8
    """Conversations in one forward and backward pass."""
    batch_tokens: PositiveInt | None = None
    """Fill each pass with as many whole conversations as fit into so many tokens, instead of `batch_size`.
    Empty: off."""
    gradient_accumulation_steps: PositiveInt = 1
    """Passes before one optimizer step: the effective batch is batch_size times this."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    """Peak learning rate. LoRA likes 1e-4 to 1e-3, full fine-tuning 1e-5 to 5e-5, learned prompts 1e-2."""
    lr_scheduler: ScheduleName = "cosine"
    """How the learning rate moves after warm-up."""
    lr_scheduler_kwargs: dict[str, Any] = {}  # noqa: RUF012
    """Settings of the schedule, such as min_lr_rate: 0.1 (cosine_with_min_lr), num_decay_steps: 100
    (warmup_stable_decay), num_cycles: 3 (cosine_with_restarts), power: 2 (polynomial)."""
    warmup: Fraction = 0.05
    """Share of the steps over which the learning rate rises from zero."""
    optimizer: OptimizerName = "adamw"
    """Update rule. Some come with optional packages: pip install 'ftkit[optimizers]'."""
    optimizer_kwargs: dict[str, Any] = {}  # noqa: RUF012
    """Settings of the optimizer, such as beta2: 0.95 (adamw), rank: 64 (galore), momentum: 0.9 (sgd)."""
    embedding_learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Another learning rate for trained embeddings, mostly a lower one. Empty: the same."""
    layerwise_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Learning rate of each decoder layer, as a share of the layer's above it. Empty: the same for all."""
    neftune_alpha: Annotated[float, Field(gt=0)] | None = None
    """Noise on the embeddings while training, such as 5 (NEFTune, arXiv:2310.05914). Empty: none."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep a moving average of the trained weights, such as 0.999, and take it as the result. Empty: the last
    weights."""
    keep_best: bool = False
    """Take the weights with the lowest held-out loss as the result, rather than the last ones; the checkpoint
    with that loss is kept, too."""
    early_stopping_patience: PositiveInt | None = None
    """End training when so many evaluations in a row have not lowered the held-out loss. Empty: never."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Pull of the weights towards zero, per step."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Clip the gradient to this length. 0: do not clip."""
    sample_prompts: Lines = ()
    """Messages that the model answers while it trains, so that one sees its replies change."""
    sample_every: PositiveInt | None = None
    """Answer them every so many steps. Empty: only when asked to."""
    evals: NonNegativeInt = 10
    """Evaluations of the held-out loss over the run. 0: none."""
    checkpoints: NonNegativeInt = 2
    """Checkpoints over the run, beside the one at the end."""
    on_bad_loss: Literal["stop", "roll_back"] = "stop"
    """When the loss is no longer a number or runs away: stop, or go back to the last good checkpoint and on
    with a third of the learning rate, three times at most."""
    time_limit: Annotated[float | None, Field(gt=0)] = None
    """Save and stop before so many minutes have passed since Start, for hosts that end a session (Colab,
    Kaggle, Binder). Resume goes on with as many minutes again. Empty: no limit."""
    seed: int = 42
    """Seed of the row order, the adapter's first values and dropout."""


class Fast(Section):
    """ftkit's own kernels, each by itself; where one does not fit the model, the model's own code stays."""

    attention: bool = True
    """Rows laid end to end without padding, each attending to itself only."""
    loss: bool = True
    """The output head on trained tokens only, a slice at a time, its gradient made in the forward pass."""
    lora: bool = True
    """The frozen weight and its adapter in one product; query, key and value together."""
    mlp: bool = True
    """The gated feed-forward as one piece that keeps less for the backward pass."""
    norms: bool = True
    """RMS normalisation in one pass over memory."""
    rotary: bool = True
    """Rotary positions in one pass over memory."""

    @classmethod
    def of(cls, value: Fast | bool) -> Fast:
        """All pieces for True, none for False."""
        return value if isinstance(value, Fast) else cls(**dict.fromkeys(cls.model_fields, value))


class Compute(Section):
    """What to run on."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a CUDA GPU where there is one."""
    backend: Literal["auto", "ftkit", "unsloth"] = "auto"
    """Whose layers are trained: ftkit's own, or those of the package unsloth. `auto` takes Unsloth on a CUDA
    GPU where it is installed, else ftkit's."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights. `auto`: bfloat16 where the hardware computes in it, else float32. `float16`
    is for GPUs that do not compute in bfloat16."""
    gradient_checkpointing: Literal["auto", "off", "attention", "mlp", "layers"] = "auto"
    """What the backward pass makes again rather than keeps: nothing, attention weights, the feed-forward too,
    or whole layers: ever less memory for a little more time. `auto` takes the first that fits."""
    threads: PositiveInt | None = None
    """CPU threads. Empty: one a core."""
    fast: Fast = Fast()
    """Use ftkit's own kernels where they apply. `false` switches all of them off."""
    launch: Literal["thread", "process", "torchrun", "ray"] = "thread"
    """Where the run lives: a thread of this kernel, which can chat with the model between steps; a process of
    its own, which goes on when the kernel restarts or dies; or several that train together, on this machine
    (`torchrun`) or by Ray (`ray`: on the cluster that RAY_ADDRESS names, else here)."""
    processes: PositiveInt = 1
    """Processes that train together by torchrun or Ray: on a GPU each, or with a share of the cores. Each
    takes batches of its own, so the effective batch is that many times larger."""
    engine_config: str | None = None
    """File that says how torchrun's processes hold the model between them: a configuration of accelerate
    (DDP, FSDP, DeepSpeed) or DeepSpeed's own JSON. Empty: the whole model in each."""
    offline: bool = False
    """Use only what is already on this machine."""

    @field_validator("gradient_checkpointing", mode="before")
    @classmethod
    def _all_layers_or_none(cls, value: Any) -> Any:
        return ("layers" if value else "off") if isinstance(value, bool) else value

    @field_validator("fast", mode="before")
    @classmethod
    def _all_or_none(cls, fast: Any) -> Any:
        return Fast.of(fast) if isinstance(fast, bool) else fast


class Output(Section):
    """Where the run folder goes."""

    folder: Path = Path("runs")
    """Folder that holds the runs."""
    name: str | None = None
    """Name of the run's folder. Empty: made from the data and the time."""
    keep_checkpoints: PositiveInt = 2
    """So many of the newest checkpoints are kept."""
    keep_every: PositiveInt | None = None
    """Keep the checkpoints at multiples of so many steps, too. Empty: only the newest."""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[\w][\w.\- ]{0,99}", name):
            msg = "a run's name is up to 100 letters, digits, spaces, dots, dashes or underscores"
            raise ValueError(msg)
        if name is not None and (is_device(name) or name[-1] in " ."):
            msg = "a run's name is no name of a device, such as CON, and ends in no dot or space"
            raise ValueError(msg)
        return name


class Recipe(Section):
    """A fine-tune, whole.

    `Recipe(model="starter", data="starter:extract")` is enough; every other field has a default.

    Raises
    ------
    RecipeError
        On an unknown key (with a spelling hint), a wrong value, or fields that exclude each other. Every
        problem is named by its path, such as `training.learning_rate`.
    """

    version: Literal[1] = 1
    """Version of this schema."""
    model: Model = Model()
    data: Data = Data()
    method: Method = LoRA()
    objective: Objective = SFT()
    training: Training = Training()
    compute: Compute = Compute()
    output: Output = Output()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise RecipeError(
                _explain(error), "Change the field named above; the rest is as you left it."
            ) from None

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, values: Any) -> Any:
        """`model="starter"` is `model={"source": "starter"}`, `method="lora"` is `{"type": "lora"}`.

        `data` may also be rows of the kernel, or a list of sources.
        """
        if not isinstance(values, dict):
            return values
        values = {**values}
        if "data" in values and not isinstance(values["data"], Source):
            data = values["data"]
            values["data"] = {"source": str(save_rows(data))} if are_rows(data) else section_of(data) or data
        key = {"model": "source", "method": "type", "objective": "type"}
        values = {
            name: {key[name]: v} if isinstance(v, str) and name in key else v for name, v in values.items()
        }
        for name, default in (("method", "lora"), ("objective", "sft")):
            if isinstance(values.get(name), dict):
                values[name] = {"type": default} | values[name]
        return _as_it_was_called(values)

    @model_validator(mode="after")
    def _goes_together(self) -> Recipe:
        if self.objective.type == "pretraining" and self.data.system_prompt is not None:
            raise ValueError(
                "data.system_prompt has no place in objective 'pretraining': plain text has no turns"
            )
        if self.compute.backend == "unsloth" and (reason := why_not_unsloth(self)):
            raise ValueError(reason)
        if self.compute.processes > 1 and self.compute.launch in ("thread", "process"):
            raise ValueError(
                f"compute.processes is {self.compute.processes}, but compute.launch {self.compute.launch!r} "
                "is one process: set compute.launch to 'torchrun' or 'ray', or compute.processes to 1"
            )
        if self.compute.engine_config is not None and self.compute.launch != "torchrun":
            raise ValueError(
                f"compute.engine_config is for compute.launch 'torchrun', and compute.launch is "
                f"{self.compute.launch!r}: set that to 'torchrun', or leave compute.engine_config empty"
            )
        if isinstance(self.objective, Distillation) and self.model.new_tokens:
            raise ValueError(
                f"model.new_tokens ({', '.join(self.model.new_tokens)}) are not in the vocabulary of "
                "objective.teacher, which has to be the model's own: leave them out"
            )
        beta = getattr(self.objective, "beta", 0)
        if self.objective.reads == "prompts" and beta and self.method.saves == "model":
            raise ValueError(
                f"objective.beta ({beta:g}) needs a reference, which method.type {self.method.type!r} would "
                "keep as a second copy of the model: set objective.beta to 0, or train an adapter"
            )
        bias = getattr(self.method, "bias", "none")
        if self.objective.reads == "prompts" and beta and bias != "none":
            raise ValueError(
                f"objective.beta ({beta:g}) needs the model without its adapter as a reference, and "
                f"method.bias {bias!r} changes that: set objective.beta to 0, or method.bias to 'none'"
            )
        if self.objective.reads == "prompts" and self.compute.processes > 1:
            raise ValueError(
                f"compute.processes ({self.compute.processes}) has to be 1 for objective "
                f"{self.objective.type!r}, which answers and learns in one process"
            )
        weights = {part.weight for part in (self.data, *self.data.mixed_with)}
        if len(weights) > 1 and self.data.mix == "concat":
            raise ValueError(
                "data.weight has no effect with data.mix 'concat', which takes all rows: interleave them"
            )
        return self

    @model_validator(mode="after")
    def _method_goes_with_the_rest(self) -> Recipe:
        method, bits = self.method, self.model.quantization
        if bits is not None and method.saves == "model":
            raise ValueError(
                f"model.quantization {bits!r} does not go with method {method.type!r}: weights of few bits "
                "cannot be trained themselves"
            )
        if bits is not None and isinstance(method, LoRA) and method.init in ("pissa", "olora"):
            raise ValueError(
                f"model.quantization {bits!r} does not go with method.init {method.init!r}, which takes the "
                "weights apart"
            )
        if bits is not None and bits.startswith("hqq") and method.type in ("adalora", "ia3"):
            raise ValueError(
                f"model.quantization {bits!r} does not go with method {method.type!r}, which knows other "
                "layers only: choose lora, or quantization 4bit"
            )
        if bits == "8bit" and isinstance(method, LoRA) and method.use_dora:
            raise ValueError(
                "model.quantization '8bit' does not go with method.use_dora: take int8, 4bit or hqq8"
            )
        if isinstance(method, LoRA) and method.init == "loftq" and (bits is None or method.use_dora):
            other = "method.use_dora" if bits is not None else "whole weights: set model.quantization"
            raise ValueError(f"method.init 'loftq' does not go with {other}")
        if isinstance(method, LoRA) and method.init in ("pissa", "olora"):
            if method.use_dora:
                raise ValueError(f"method.use_dora does not go with method.init {method.init!r}: choose one")
            if self.training.weight_decay:
                raise ValueError(
                    f"training.weight_decay does not go with method.init {method.init!r}: it would pull the "
                    "model's own main directions towards zero"
                )
        if isinstance(method, LoRA) and method.stack_on is not None and self.training.weight_decay:
            raise ValueError(
                "training.weight_decay does not go with method.stack_on: it would pull the adapter below, "
                "which stays as it is, towards zero"
            )
        if isinstance(method, PromptTuning | PrefixTuning):
            if self.objective.type == "reward":
                raise ValueError(
                    f"objective 'reward' does not go with method {method.type!r}: a score needs weights "
                    "of its own"
                )
            again = self.compute.gradient_checkpointing
            if again not in ("auto", "off"):
                raise ValueError(
                    f"compute.gradient_checkpointing {again!r} does not go with method {method.type!r}: "
                    "leave it auto"
                )
        return self

    @model_validator(mode="after")
    def _optimizer_goes_with_the_rest(self) -> Recipe:
        training, method = self.training, self.method
        name, schedule = training.optimizer, training.lr_scheduler
        kind = OPTIMIZERS[name]
        settings = training.optimizer_kwargs
        check_settings(settings, kind.settings, name, "training.optimizer_kwargs", kind.choices)
        check_settings(
            training.lr_scheduler_kwargs, SCHEDULES[schedule], schedule, "training.lr_scheduler_kwargs"
        )
        if kind.whole_matrices and method.saves == "adapter":
            raise ValueError(
                f"training.optimizer {name!r} does not go with method {method.type!r}: it works on the "
                "model's own matrices, which only method full or freeze trains"
            )
        others = {
            f"objective {self.objective.type!r}": self.objective.type not in ("sft", "pretraining"),
            f"compute.processes ({self.compute.processes})": self.compute.processes > 1,
            "compute.dtype 'float16'": self.compute.dtype == "float16",
        }
        for other, given in others.items():
            if name == "sophia" and given:
                raise ValueError(
                    f"training.optimizer 'sophia' does not go with {other}: it draws tokens from what the "
                    "model says of a whole batch of texts"
                )
        if kind.by_layers and self.compute.processes > 1:
            raise ValueError(
                f"training.optimizer {name!r} does not go with compute.processes "
                f"({self.compute.processes}): processes add up the gradients of all layers"
            )
        if kind.by_layers and training.embedding_learning_rate is not None:
            raise ValueError(
                f"training.embedding_learning_rate does not go with training.optimizer {name!r}, which "
                "trains decoder layers only"
            )
        if name == "schedule_free" and schedule not in ("constant", "constant_with_warmup"):
            raise ValueError(
                f"training.optimizer 'schedule_free' does not go with training.lr_scheduler {schedule!r}: "
                "take constant or constant_with_warmup"
            )
        if training.ema_decay is not None and training.keep_best:
            raise ValueError(
                "training.ema_decay and training.keep_best exclude each other: each decides which weights "
                "are the result"
            )
        if name == "schedule_free" and (training.ema_decay is not None or training.keep_best):
            other = "ema_decay" if training.ema_decay is not None else "keep_best"
            raise ValueError(
                f"training.optimizer 'schedule_free' does not go with training.{other}: its own average is "
                "the result"
            )
        needs = {
            "training.keep_best": training.keep_best,
            "training.early_stopping_patience": training.early_stopping_patience is not None,
            f"training.lr_scheduler {schedule!r}": schedule == "reduce_lr_on_plateau",
        }
        for field, asked in needs.items():
            if asked and not training.evals:
                raise ValueError(f"{field} needs held-out losses, and training.evals is 0")
        if training.embedding_learning_rate is not None and method.type not in ("full", "freeze", "lora"):
            raise ValueError(
                f"training.embedding_learning_rate does not go with method {method.type!r}, which trains no "
                "embeddings"
            )
        if self.compute.backend == "unsloth" and training.neftune_alpha is not None:
            raise ValueError("training.neftune_alpha does not go with compute.backend 'unsloth'")
        return self

    def replace(self, changes: dict[str, Any] | None = None, /, **sections: Any) -> Recipe:
        """A new Recipe with some fields changed.

        Parameters
        ----------
        changes
            Dotted paths to values: `{"training.learning_rate": 1e-4, "method.rank": 8}`.
        sections
            Whole sections or the fields of one to change: `training={"epochs": 3}`.

        Raises
        ------
        RecipeError
            When the result is not a Recipe; the old one is untouched.
        """
        values = self.model_dump()
        for name, section in sections.items():
            old = values.get(name)
            new = section.model_dump() if isinstance(section, Section) else section
            merge = (
                isinstance(old, dict)
                and isinstance(new, dict)
                and new.get("type", old.get("type")) == old.get("type")
            )
            values[name] = {**old, **new} if merge and isinstance(old, dict) else new
        for path, value in (changes or {}).items():
            *parents, last = path.split(".")
            target = values
            for parent in parents:
                if not isinstance(target.get(parent), dict):
                    raise RecipeError(f"{path}: there is no section {parent!r} in a Recipe.")
                target = target[parent]
            target[last] = value
        return Recipe(**values)

    def to_yaml(self, path: str | Path | None = None) -> str:
        """The Recipe as YAML, whole, every field written out; also written to `path` when given."""
        from ftkit.recipe.yaml import to_yaml

        return to_yaml(self, path)

    @classmethod
    def from_yaml(cls, source: str | Path) -> Recipe:
        """Read a Recipe from a YAML file (a path) or from YAML text (with a line break or a colon)."""
        from ftkit.recipe.yaml import from_yaml

        return from_yaml(source)

    def to_python(self) -> str:
        """The notebook cell that reproduces this Recipe: only fields off their defaults are named."""
        from ftkit.recipe.code import to_python

        return to_python(self)


def _as_it_was_called(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of Recipes that were written before a field was given its name: `output.keep_best`."""
    output, training = values.get("output"), values.get("training", {})
    if not isinstance(output, dict) or "keep_best" not in output:
        return values
    kept = output["keep_best"]
    values["output"] = {name: value for name, value in output.items() if name != "keep_best"}
    if kept and isinstance(training, dict):
        values["training"] = {"keep_best": kept} | training
    elif kept and isinstance(training, Training):
        values["training"] = training.model_copy(update={"keep_best": True})
    return values


_UNSLOTH_TAKES = {"type", "rank", "alpha", "dropout", "target_modules", "use_rslora"}
"""Fields of LoRA that `ftkit.models.unsloth_backend` passes on; others are refused, not forgotten."""


def why_not_unsloth(recipe: Recipe) -> str:
    """What Unsloth does not take of a Recipe, by the fields' names; empty where it takes all."""
    objective = recipe.objective
    if objective.head != "words" or objective.reads == "prompts" or isinstance(objective, Distillation):
        return f"compute.backend 'unsloth' does not take objective.type {recipe.objective.type!r}"
    method, level = recipe.method, recipe.compute.gradient_checkpointing
    if recipe.compute.processes > 1:
        return "compute.backend 'unsloth' does not take several compute.processes: choose backend 'ftkit'"
    if method.type not in ("lora", "full"):
        return f"compute.backend 'unsloth' does not take method.type {method.type!r}: lora or full"
    if isinstance(method, LoRA):
        for name in sorted(type(method).model_fields.keys() - _UNSLOTH_TAKES):
            if getattr(method, name) != type(method).model_fields[name].default:
                return f"compute.backend 'unsloth' does not take method.{name}: choose backend 'ftkit'"
    if recipe.model.quantization is not None:
        return "compute.backend 'unsloth' does not take model.quantization: choose backend 'ftkit'"
    if recipe.model.new_tokens:
        return "compute.backend 'unsloth' does not take model.new_tokens: choose backend 'ftkit'"
    if level in ("attention", "mlp"):
        return (
            f"compute.backend 'unsloth' does not take compute.gradient_checkpointing {level!r}: "
            "auto, off or layers"
        )
    return ""


def section_of(value: Any) -> dict[str, Any] | None:
    """The data section of the name of a source, or of a list of sources; None for something else."""
    several = value if isinstance(value, (list, tuple)) else [value]
    if not several or not all(isinstance(one, (str, Path, Source)) for one in several):
        return None
    first, *others = (
        one.model_dump() if isinstance(one, Source) else {"source": str(one)} for one in several
    )
    return {**first, "mixed_with": others} if others else first


def _explain(error: ValidationError) -> str:
    """Every problem of a pydantic error on a line of its own: path, what is wrong, the value given."""
    lines = []
    for problem in error.errors():
        path = ".".join(map(str, _without_type(problem["loc"])))
        what = problem["msg"].removeprefix("Value error, ")
        given = "" if problem["type"] in {"value_error", "missing"} else f" (given: {problem['input']!r:.80})"
        lines.append(f"{path or 'recipe'}: {what}{given}")
    return "\n".join(lines)


def _without_type(location: tuple[Any, ...]) -> tuple[Any, ...]:
    """Where a problem is, in the Recipe's own words: pydantic also names the class of a union by its type."""
    field = Recipe.model_fields.get(str(location[0])) if location else None
    return location if field is None or field.discriminator is None else (location[0], *location[2:])
