"""The file that `compute.engine_config` names: how the processes of torchrun hold one model between them.

It is a configuration of accelerate (YAML or JSON: DDP, FSDP or DeepSpeed), or the JSON of DeepSpeed or of
transformers' `fsdp_config`. What the file says is held against the Recipe, which decides where both speak of
one thing. Reading it loads neither torch nor accelerate nor DeepSpeed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from ftkit.errors import RecipeError, RunError
from ftkit.folders import named
from ftkit.recipe._base import PositiveInt, Section
from ftkit.recipe.yaml import PlainLoader

if TYPE_CHECKING:
    from ftkit.recipe.schema import Recipe

LONGEST = 100_000
"""Characters of the file; a long one has a twentieth."""


@dataclass(frozen=True)
class Copies:
    """Every process holds the whole model (DDP)."""

    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shards:
    """Every process holds its share of all weights, gradients and optimizer states (FSDP2).

    Attributes
    ----------
    reshard
        Whether whole weights are let go after a layer's forward pass, and fetched again for its backward.
    by_layer
        Whether a decoder layer's weights are fetched together, rather than all of the model's at once.
    layers
        Names of the classes that stand for a layer; empty: the decoder layers as they are found.
    offload
        Whether the shares rest in the host's memory.
    notes
        What is to be said of the file.
    """

    reshard: bool = True
    by_layer: bool = True
    layers: tuple[str, ...] = ()
    offload: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Zero:
    """Every process holds the whole weights, and its share of gradients and optimizer states (DeepSpeed).

    Attributes
    ----------
    stage
        1: optimizer states are shared out; 2: gradients too.
    settings
        DeepSpeed's own configuration, with the Recipe's values in place of `auto`.
    """

    stage: int
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()


Engine = Copies | Shards | Zero


def read(recipe: Recipe) -> Engine:
    """What the Recipe's file says; copies where it names none.

    Raises
    ------
    RecipeError
        When the file is missing, cannot be read, holds a key or a value that is not known, or does not go
        together with the Recipe.
    """
    config = recipe.compute.engine_config
    if config is None:
        return Copies()
    path = named(config)
    where = f"compute.engine_config {str(path)[:200]}"
    values = _mapping(path, where)
    try:
        if "distributed_type" in values or "compute_environment" in values:
            made = _of_accelerate(_Accelerate.model_validate(values), recipe, path)
        elif values.keys() & _DEEPSPEED_MARKS:
            made = _of_deepspeed(values, recipe)
        else:
            made = _of_fsdp(_Fsdp.model_validate(_prefixed(values)), recipe)
        if not isinstance(made, Copies):
            _goes_with(made, recipe)
            if recipe.compute.processes == 1:
                return Copies((f"{_name(made)} has nothing to split: compute.processes is 1.",))
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error)}", "Correct the file, or leave the key out.") from None
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None
    return made


def check(recipe: Recipe) -> None:
    """Read the Recipe's file, and refuse what is not installed.

    Raises
    ------
    RecipeError
        As `read` does.
    RunError
        Without DeepSpeed, where the file asks for it; says what to install.
    """
    if isinstance(read(recipe), Zero) and find_spec("deepspeed") is None:
        raise RunError(
            "compute.engine_config asks for DeepSpeed, and that is not installed.",
            'Install it with: pip install "ftkit[deepspeed]"; or name a file for FSDP, which is in torch.',
        )


# Files


def _mapping(path: Path, where: str) -> dict[str, Any]:
    """The file's contents; JSON is YAML, too."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except FileNotFoundError:
        raise RecipeError(
            f"{where}: there is no such file.",
            "Give the path of a configuration file of accelerate or DeepSpeed; or leave the field empty: "
            "every process then holds the whole model.",
        ) from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{where} cannot be read: {error!s:.200}") from None
    if len(text) > LONGEST:
        raise RecipeError(f"{where} has more than {LONGEST:,} characters: no such file has.")
    try:
        values = yaml.load(text.replace("\t", " "), Loader=PlainLoader)
    except (yaml.YAMLError, ValueError, OverflowError, AttributeError) as error:
        raise RecipeError(f"{where} is neither YAML nor JSON: {error!s:.300}") from None
    except RecursionError:
        raise RecipeError(f"{where} is nested too deeply.") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RecipeError(
            f"{where} holds no settings.", "Expected are lines such as `distributed_type: FSDP`."
        )
    return values


def _explain(error: ValidationError) -> str:
    said = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        given = "" if problem["type"] == "value_error" else f" (given: {problem['input']!r:.80})"
        said.append(f"{path}: {what}{given}" if path else f"{what}{given}")
    return "; ".join(said)


def _known(values: Mapping[str, Any], known: frozenset[str], what: str) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key[:80], known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"{what} has none of this name"
            raise ValueError(f"unknown key {key[:80]!r}; {hint}")


class _File(Section):
    """A part of a file. Fields that decide nothing here are named, so that others can be called unknown."""


class _Fsdp(_File):
    fsdp_version: Literal[1, 2] = 1
    fsdp_auto_wrap_policy: Literal["TRANSFORMER_BASED_WRAP", "NO_WRAP"] = "TRANSFORMER_BASED_WRAP"
    fsdp_transformer_layer_cls_to_wrap: tuple[str, ...] = ()
    fsdp_min_num_params: Literal[0] = 0
    fsdp_reshard_after_forward: bool | Literal["FULL_SHARD", "SHARD_GRAD_OP"] = True
    fsdp_sharding_strategy: Literal["FULL_SHARD", "SHARD_GRAD_OP", 1, 2] | None = None
    fsdp_offload_params: bool = False
    fsdp_activation_checkpointing: bool = False
    fsdp_backward_prefetch: str | None = None
    fsdp_backward_prefetch_policy: str | None = None
    fsdp_forward_prefetch: bool | None = None
    fsdp_use_orig_params: bool | None = None
    fsdp_sync_module_states: bool | None = None
    fsdp_cpu_ram_efficient_loading: bool | None = None
    fsdp_state_dict_type: str | None = None

    @field_validator("fsdp_transformer_layer_cls_to_wrap", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return () if value is None else value

    @field_validator("fsdp_auto_wrap_policy", "fsdp_sharding_strategy", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("fsdp_reshard_after_forward", mode="before")
    @classmethod
    def _flag(cls, value: Any) -> Any:
        return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


_IDLE_FSDP = (
    "backward_prefetch",
    "backward_prefetch_policy",
    "forward_prefetch",
    "use_orig_params",
    "sync_module_states",
    "cpu_ram_efficient_loading",
    "state_dict_type",
)
"""Settings of FSDP that ask for nothing here: FSDP2 has no such choice, or results are saved whole anyway."""


class _DeepSpeed(_File):
    deepspeed_config_file: str | None = None
    zero_stage: Literal[0, 1, 2, 3] = 2
    gradient_accumulation_steps: PositiveInt | Literal["auto"] = "auto"
    gradient_clipping: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    offload_optimizer_device: Literal["none", "cpu", "nvme"] = "none"
    offload_param_device: Literal["none", "cpu", "nvme"] = "none"
    offload_optimizer_nvme_path: str | None = None
    offload_param_nvme_path: str | None = None
    zero3_init_flag: bool = False
    zero3_save_16bit_model: bool = False
    deepspeed_multinode_launcher: str | None = None
    deepspeed_hostfile: str | None = None
    deepspeed_exclusion_filter: str | None = None
    deepspeed_inclusion_filter: str | None = None
    deepspeed_moe_layer_cls_names: str | None = None


class _Accelerate(_File):
    compute_environment: Literal["LOCAL_MACHINE"] = "LOCAL_MACHINE"
    distributed_type: str = "MULTI_GPU"
    num_processes: PositiveInt | None = None
    num_machines: Literal[1] = 1
    mixed_precision: Literal["no", "bf16"] | None = None
    use_cpu: bool = False
    fsdp_config: _Fsdp = _Fsdp()
    deepspeed_config: _DeepSpeed = _DeepSpeed()
    debug: bool | None = None
    downcast_bf16: bool | str | None = None
    enable_cpu_affinity: bool | None = None
    gpu_ids: str | int | None = None
    machine_rank: int | None = None
    main_process_ip: str | None = None
    main_process_port: int | None = None
    main_training_function: str | None = None
    rdzv_backend: str | None = None
    same_network: bool | None = None
    tpu_env: list[str] | None = None
    tpu_use_cluster: bool | None = None
    tpu_use_sudo: bool | None = None

    @field_validator("mixed_precision", "distributed_type", mode="before")
    @classmethod
    def _no(cls, value: Any) -> Any:
        return "no" if value is False else value  # YAML reads `no` as false


_DISTRIBUTED = ("NO", "MULTI_CPU", "MULTI_GPU", "FSDP", "DEEPSPEED")


def _of_accelerate(file: _Accelerate, recipe: Recipe, path: Path) -> Engine:
    kind, count = file.distributed_type.upper(), recipe.compute.processes
    if kind not in _DISTRIBUTED:
        raise ValueError(
            f"distributed_type {file.distributed_type[:40]!r} is not offered: {', '.join(_DISTRIBUTED)}"
        )
    if file.num_processes not in (None, count):
        raise ValueError(
            f"num_processes is {file.num_processes}, and compute.processes is {count}: let both be the same"
        )
    if file.use_cpu and recipe.compute.device == "cuda":
        raise ValueError("use_cpu is true, and compute.device is 'cuda': let both name one device")
    if file.mixed_precision == "bf16" and recipe.compute.dtype == "float32":
        raise ValueError(
            "mixed_precision is 'bf16', and compute.dtype is 'float32': compute.dtype decides, let both agree"
        )
    given = file.model_fields_set
    if kind == "FSDP":
        return _of_fsdp(file.fsdp_config, recipe)
    if kind != "DEEPSPEED":
        if "fsdp_config" in given or "deepspeed_config" in given:
            raise ValueError(
                f"distributed_type is {kind}, and the file has settings of FSDP or DeepSpeed: "
                "set distributed_type to FSDP or DEEPSPEED, or leave them out"
            )
        return Copies()
    return _of_accelerates_deepspeed(file.deepspeed_config, recipe, path)


def _prefixed(values: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' names of FSDP's settings as accelerate's."""
    return {key if key.startswith("fsdp_") else f"fsdp_{key}": value for key, value in values.items()}


def _of_fsdp(file: _Fsdp, recipe: Recipe) -> Shards:
    if file.fsdp_activation_checkpointing and recipe.compute.gradient_checkpointing != "layers":
        raise ValueError(
            "fsdp_activation_checkpointing is true, and compute.gradient_checkpointing is "
            f"{recipe.compute.gradient_checkpointing!r}: set the latter to 'layers', or leave the former out"
        )
    by_layer = file.fsdp_auto_wrap_policy != "NO_WRAP"
    strategy = file.fsdp_sharding_strategy or file.fsdp_reshard_after_forward
    notes = []
    if "fsdp_version" in file.model_fields_set and file.fsdp_version == 1:
        notes.append("The engine's file asks for FSDP 1: the run is carried out by FSDP 2.")
    idle = [name for name in _IDLE_FSDP if f"fsdp_{name}" in file.model_fields_set]
    if idle:
        notes.append(f"These settings of FSDP have no effect here: {', '.join(idle)}.")
    return Shards(
        reshard=strategy in (True, "FULL_SHARD", 1),
        by_layer=by_layer,
        layers=file.fsdp_transformer_layer_cls_to_wrap if by_layer else (),
        offload=file.fsdp_offload_params,
        notes=tuple(notes),
    )


# DeepSpeed


_DEEPSPEED_MARKS = frozenset({"zero_optimization", "train_micro_batch_size_per_gpu", "train_batch_size"})
_BY_RECIPE = {
    "optimizer": "training.optimizer",
    "scheduler": "training.lr_scheduler",
    "fp16": "compute.dtype",
    "amp": "compute.dtype",
    "activation_checkpointing": "compute.gradient_checkpointing",
    "data_efficiency": "data",
    "curriculum_learning": "data",
    "compression_training": "method",
}
"""Sections of DeepSpeed's file for which the Recipe has fields of its own."""
_DEEPSPEED_KEYS = _DEEPSPEED_MARKS | {
    *_BY_RECIPE,
    "gradient_accumulation_steps",
    "gradient_clipping",
    "bf16",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "gradient_predivide_factor",
    "prescale_gradients",
    "sparse_gradients",
    "communication_data_type",
    "steps_per_print",
    "wall_clock_breakdown",
    "dump_state",
    "memory_breakdown",
    "comms_logger",
    "flops_profiler",
    "tensorboard",
    "wandb",
    "csv_monitor",
    "comet",
    "aio",
    "checkpoint",
    "elasticity",
    "autotuning",
    "data_types",
    "torch_autocast",
    "dataloader_drop_last",
    "disable_allgather",
    "seq_parallel_communication_data_type",
    "sequence_parallel_size",
    "tensor_parallel",
    "compile",
    "eigenvalue",
    "progressive_layer_drop",
    "hybrid_engine",
    "sparse_attention",
    "graph_harvesting",
    "use_node_local_storage",
    "use_data_before_expert_parallelism",
    "timers",
    "zero_mics",
}
_PASSED_ON = frozenset(
    {
        "gradient_predivide_factor",
        "prescale_gradients",
        "communication_data_type",
        "wall_clock_breakdown",
        "comms_logger",
        "flops_profiler",
        "disable_allgather",
        "aio",
    }
)
"""What DeepSpeed is told as the file has it; the rest is the Recipe's, or is not offered."""
_IDLE_DEEPSPEED = frozenset(
    {"zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "steps_per_print", "bf16"}
)


def _of_accelerates_deepspeed(file: _DeepSpeed, recipe: Recipe, path: Path) -> Zero:
    if file.deepspeed_config_file is not None:
        inner = named(file.deepspeed_config_file)
        inner = inner if inner.is_absolute() else path.parent / inner
        return _of_deepspeed(_mapping(inner, f"deepspeed_config_file {str(inner)[:200]}"), recipe)
    zero: dict[str, Any] = {"stage": file.zero_stage}
    for what in ("optimizer", "param"):
        device = getattr(file, f"offload_{what}_device")
        if device != "none":
            zero[f"offload_{what}"] = {"device": device}
    values = {
        "zero_optimization": zero,
        "gradient_accumulation_steps": file.gradient_accumulation_steps,
        "gradient_clipping": file.gradient_clipping,
    }
    return _of_deepspeed(values, recipe)


def _of_deepspeed(values: Mapping[str, Any], recipe: Recipe) -> Zero:
    _known(values, frozenset(_DEEPSPEED_KEYS), "DeepSpeed's configuration")
    zero = values.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise ValueError("zero_optimization is a section with fields such as stage")
    stage = zero.get("stage", 0)
    if stage not in (1, 2) or isinstance(stage, bool):
        raise ValueError(
            f"zero_optimization.stage {stage!r:.40} is not offered: 1 and 2 are. For 0, leave "
            "compute.engine_config empty; for 3, name a file for FSDP (distributed_type: FSDP)"
        )
    for name in ("offload_optimizer", "offload_param"):
        section = zero.get(name)
        device = section.get("device", "none") if isinstance(section, dict) else section or "none"
        if device != "none":
            raise ValueError(
                f"zero_optimization.{name} to {device!r:.40} is not offered: FSDP keeps its shares in the "
                "host's memory with fsdp_offload_params"
            )
    for section, field in _BY_RECIPE.items():
        value = values.get(section)
        if value and not (isinstance(value, dict) and value.get("enabled") in (False, "auto")):
            raise ValueError(f"{section} is the Recipe's to say ({field}): leave it out of the file")
    _same_numbers(values, recipe)
    training = recipe.training
    left = sorted(values.keys() - _PASSED_ON - _IDLE_DEEPSPEED - _DEEPSPEED_MARKS - _BY_RECIPE.keys())
    left = [name for name in left if name not in ("gradient_accumulation_steps", "gradient_clipping")]
    notes = (f"These settings of DeepSpeed have no effect here: {', '.join(left)}.",) if left else ()
    settings = {
        **{name: value for name, value in values.items() if name in _PASSED_ON and value != "auto"},
        "zero_optimization": {name: value for name, value in zero.items() if value != "auto"},
        "train_micro_batch_size_per_gpu": training.batch_size,
        "gradient_accumulation_steps": 1,  # a step's passes are summed by the trainer
        "gradient_clipping": training.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    return Zero(stage=stage, settings=settings, notes=notes)


def _same_numbers(values: Mapping[str, Any], recipe: Recipe) -> None:
    """Numbers that the Recipe has, too, are the same there, or `auto`."""
    training, count = recipe.training, recipe.compute.processes
    whole = training.batch_size * training.gradient_accumulation_steps * count
    for key, field, mine in (
        ("train_micro_batch_size_per_gpu", "training.batch_size", training.batch_size),
        ("gradient_accumulation_steps", "training.gradient_accumulation_steps",
         training.gradient_accumulation_steps),
        ("gradient_clipping", "training.max_grad_norm", training.max_grad_norm),
        ("train_batch_size", "batch size by accumulation by compute.processes", whole),
    ):  # fmt: skip
        given = values.get(key, "auto")
        if given not in ("auto", mine):
            raise ValueError(f"{key} is {given!r:.40}, and {field} is {mine}: write auto, or the same")


# With the Recipe

_METHODS = ("lora", "full", "freeze")
_SHARED_OPTIMIZERS = ("adamw", "sgd")
"""Whose rule asks of a weight nothing but itself: a share of it moves as it does in the whole."""


def _name(engine: Shards | Zero) -> str:
    return "FSDP" if isinstance(engine, Shards) else "DeepSpeed"


def _goes_with(engine: Shards | Zero, recipe: Recipe) -> None:
    """Raise where splitting a model rules out what the Recipe asks for."""
    name = _name(engine)
    training, method = recipe.training, recipe.method
    if training.optimizer not in _SHARED_OPTIMIZERS:
        raise ValueError(
            f"{name} does not go with training.optimizer {training.optimizer!r}: "
            f"{' or '.join(_SHARED_OPTIMIZERS)}"
        )
    if method.type not in _METHODS:
        raise ValueError(f"{name} does not go with method.type {method.type!r}: {', '.join(_METHODS)}")
    if recipe.model.quantization is not None:
        raise ValueError(f"{name} does not go with model.quantization {recipe.model.quantization!r}")
    for field in ("ema_decay", "keep_best"):
        if getattr(training, field):
            raise ValueError(f"{name} does not go with training.{field}, which keeps whole weights beside")
    if getattr(method, "bias", "none") not in ("none", None):
        raise ValueError(f"{name} does not go with method.bias {getattr(method, 'bias', None)!r}")
