"""What becomes of a value that needs more than another name: one function a rule of `keys.yaml`.

A rule gets its key, the value and the whole file, and says what it becomes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from ftkit.recipe.llamafactory import datasets, places
from ftkit.recipe.llamafactory.given import Given
from ftkit.recipe.llamafactory.table import Key, near
from ftkit.recipe.schema import TEMPLATES


@dataclass(frozen=True)
class Sets:
    """Fields of the Recipe, by path; `note` adds to what is said of it."""

    changes: Mapping[str, Any]
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Holds:
    """ftkit does that anyway."""

    why: str


@dataclass(frozen=True)
class Left:
    """No effect here."""

    why: str


@dataclass(frozen=True)
class Wrong:
    """It cannot be."""

    message: str
    advice: str = ""


Outcome = Sets | Holds | Left | Wrong
RULES: dict[str, Callable[[Key, Any, Given], Outcome]] = {}
_OFF = Holds("off, as it is without the key")
_WITHOUT_STEPS = (
    "how many steps there will be is not known before the rows are read: ftkit counts over the whole run "
    "(training.{name})"
)
_NO_CHAT = ("default", "empty", "fewshot", "vanilla", "cpt")
_RUN_NAME = re.compile(r"[\w][\w.\- ]{0,99}")


def _rule(function: Callable[[Key, Any, Given], Outcome]) -> Callable[[Key, Any, Given], Outcome]:
    RULES[function.__name__] = function
    return function


# Model


@_rule
def adapter(key: Key, value: tuple[str, ...], given: Given) -> Outcome:
    if len(value) > 1:
        return Wrong("ftkit goes on from one adapter.", "Merge the others into the model first.")
    if not value:
        return _OFF
    above = given.values.get("create_new_adapter") and given.method == "lora"
    return Sets({"method.stack_on" if above else "method.start_from": value[0]})


@_rule
def new_adapter(key: Key, value: bool, given: Given) -> Outcome:
    if not value or not given.values.get("adapter_name_or_path"):
        return _OFF
    if given.method != "lora":
        return Left("an adapter of this kind goes on being trained; merge it into the model for a new one")
    return Sets({}, "a new adapter above the one in adapter_name_or_path (method.stack_on)")


@_rule
def revision(key: Key, value: str, given: Given) -> Outcome:
    return Holds("the main branch") if value == "main" else Sets({"model.revision": value})


@_rule
def remote_code(key: Key, value: bool, given: Given) -> Outcome:
    note = "Python code that comes with the model will run: leave it off unless you have read that code"
    return Sets({"model.trust_remote_code": value}, note if value else "")


@_rule
def attention(key: Key, value: str, given: Given) -> Outcome:
    if value == "disabled":
        return Sets({"compute.fast.attention": False})
    return Holds("ftkit's own attention, or the model's fastest (compute.fast.attention)")


@_rule
def no_checkpointing(key: Key, value: bool, given: Given) -> Outcome:
    if value:
        return Sets({"compute.gradient_checkpointing": "off"})
    return Holds("as much is made again as the memory asks for (compute.gradient_checkpointing: auto)")


@_rule
def checkpointing(key: Key, value: bool, given: Given) -> Outcome:
    return Sets({"compute.gradient_checkpointing": "layers" if value else "off"})


@_rule
def quantization(key: Key, value: int, given: Given) -> Outcome:
    kind = given.get("quantization_method")
    if kind in ("bitsandbytes", "bnb"):
        return Sets({"model.quantization": f"{value}bit"})
    if kind in ("hqq", "eetq"):
        return Sets({"model.quantization": f"{kind}{value}"})
    return Left("a checkpoint that is quantised already says so itself")


@_rule
def with_quantization(key: Key, value: str, given: Given) -> Outcome:
    if given.get("quantization_bit") is None:
        return Left("read beside quantization_bit; a checkpoint that is quantised already says so itself")
    return Sets({}, "part of model.quantization")


@_rule
def new_tokens(key: Key, value: tuple[str, ...], given: Given) -> Outcome:
    names = [
        name
        for one in ("add_tokens", "add_special_tokens", "new_special_tokens")
        for name in given.values.get(one) or ()
    ]
    return Sets({"model.new_tokens": tuple(dict.fromkeys(names))})


# Data


@_rule
def dataset(key: Key, value: tuple[str, ...], given: Given) -> Outcome:
    found = datasets.training(value, given)
    return Wrong(*found) if isinstance(found, tuple) else Sets(found)


@_rule
def with_dataset(key: Key, value: Any, given: Given) -> Outcome:
    if not (given.values.get("dataset") or given.values.get("eval_dataset")):
        return Left("read beside dataset")
    return Sets({}, "part of data.source")


@_rule
def eval_dataset(key: Key, value: tuple[str, ...], given: Given) -> Outcome:
    if given.kind == "predict":
        found = datasets.training(value, given)
        if isinstance(found, tuple):
            return Wrong(*found)
        return Sets({**found, "data.held_out_fraction": 0.0}, "the rows to answer")
    one = datasets.held_out(value, given)
    if one is None:
        return Left(
            "ftkit holds out the rows of one file (data.held_out_source), and no dataset_info.json says "
            "which file this is"
        )
    return Sets({"data.held_out_source": one})


@_rule
def template(key: Key, value: str, given: Given) -> Outcome:
    if value in TEMPLATES:
        return Sets({"data.template": value})
    if value in _NO_CHAT:
        return Left("ftkit writes conversations by the model's own chat template; data.template has others")
    return Holds("the model's own chat template is used; data.template takes another, a name or a Jinja file")


@_rule
def train_on(key: Key, value: bool, given: Given) -> Outcome:
    if not value:
        return _OFF
    return Sets({"objective.train_on": "all" if key.name == "train_on_prompt" else "last"})


@_rule
def cutoff(key: Key, value: int, given: Given) -> Outcome:
    longer = {} if given.get("stage") == "pt" else {"data.too_long": "keep_start"}
    return Sets(
        {"data.max_length": value, **longer}, "no answer is cut: first exchanges are kept" if longer else ""
    )


@_rule
def val_size(key: Key, value: float, given: Given) -> Outcome:
    if given.values.get("eval_dataset"):
        return Holds("the held-out rows come from eval_dataset")
    if value < 0:
        return Wrong("It is a share from 0 to 1, or a number of rows.", "Write 0.1.")
    if value >= 1:
        return Left("ftkit holds out a share of the rows, not a number (data.held_out_fraction)")
    return Sets({"data.held_out_fraction": value})


# Objective and method


@_rule
def stage(key: Key, value: str, given: Given) -> Outcome:
    note = "PPO is not offered: RLOO, which learns from the same reward" if value == "ppo" else ""
    return Sets({"objective.type": given.objective}, note)


@_rule
def pref_loss(key: Key, value: str, given: Given) -> Outcome:
    if value in ("orpo", "simpo"):
        return Sets({"objective.type": value})
    if value == "kto_pair":
        return Wrong("There is no loss kto_pair.", "Choose stage kto, which learns from rated replies.")
    return Sets({"objective.loss": value})


@_rule
def token_loss(key: Key, value: bool, given: Given) -> Outcome:
    if not value:
        return _OFF
    return Sets({"objective.loss": "dft" if key.name == "use_dft_loss" else "eaft"})


@_rule
def reward_model(key: Key, value: str, given: Given) -> Outcome:
    return Sets({"objective.rewards": (value,)})


@_rule
def with_reward_model(key: Key, value: str, given: Given) -> Outcome:
    if value == "full":
        return Holds("a reward model is a folder with all it needs")
    return Left("a reward model is a folder with all it needs, read with reward_model")


@_rule
def alpha(key: Key, value: float | None, given: Given) -> Outcome:
    return Sets({"method.alpha": float(value or 2 * given.get("lora_rank"))})


@_rule
def targets(key: Key, value: str | tuple[str, ...], given: Given) -> Outcome:
    every = "all" in ((value,) if isinstance(value, str) else value)
    return Sets({"method.target_modules": "all-linear" if every else value})


@_rule
def pissa(key: Key, value: bool, given: Given) -> Outcome:
    return Sets({"method.init": "pissa"}) if value else _OFF


@_rule
def llama_pro(key: Key, value: bool, given: Given) -> Outcome:
    if not value:
        return _OFF
    note = "ftkit adds the layers itself: name the model as it was before"
    return Sets({"method.expand_layers": given.get("freeze_trainable_layers")}, note)


@_rule
def freeze_layers(key: Key, value: int, given: Given) -> Outcome:
    if given.values.get("use_llama_pro"):
        return Sets({}, "how many layers are added (method.expand_layers)")
    if value == 0:
        return Wrong("0 layers cannot be trained.", "Write 2 for the last two, -2 for the first two.")
    return Sets({"method.last_layers": value} if value > 0 else {"method.first_layers": -value})


@_rule
def freeze_modules(key: Key, value: str | tuple[str, ...], given: Given) -> Outcome:
    if "all" in ((value,) if isinstance(value, str) else value):
        return Holds("every module of these layers")
    return Sets({"method.modules": value})


# Training


@_rule
def optim(key: Key, value: str, given: Given) -> Outcome:
    own = given.own_optimizer
    if own is not None:
        return Left(f"{own[0]} chooses the optimizer")
    if value not in key.values:
        hint = near(value, key.values)
        return Wrong(
            f"There is no optimizer {value[:80]!r}.",
            f"Did you mean {hint!r}?" if hint else "Write adamw_torch.",
        )
    return Sets({"training.optimizer": key.values[value]})


@_rule
def optimizer_setting(key: Key, value: str | tuple[str, ...], given: Given) -> Outcome:
    if "all" in ((value,) if isinstance(value, str) else value):
        return Holds("every linear layer")
    assert key.to is not None
    return Sets({key.to: [value] if isinstance(value, str) else list(value)})


@_rule
def precision(key: Key, value: bool, given: Given) -> Outcome:
    if not value:
        return _OFF
    return Sets({"compute.dtype": "float16" if key.name == "fp16" else "bfloat16"})


@_rule
def warmup_steps(key: Key, value: float, given: Given) -> Outcome:
    if value < 0:
        return Wrong("It is a number of steps.", "Write 0 for none.")
    if value < 1:  # 0, or a share: transformers 5 reads it so
        return Sets({"training.warmup": value})
    steps = given.get("max_steps")
    if steps > 0:
        return Sets({"training.warmup": min(value / steps, 1.0)}, f"of {steps} steps")
    return Left(_WITHOUT_STEPS.format(name="warmup"))


@_rule
def evals(key: Key, value: str, given: Given) -> Outcome:
    return _times("evals", value, given.get("eval_steps") or given.get("logging_steps"), given)


@_rule
def with_evals(key: Key, value: float, given: Given) -> Outcome:
    strategies = (given.get("eval_strategy"), given.get("evaluation_strategy"))
    if "steps" not in strategies:
        return Left("read where eval_strategy is steps")
    found = _times("evals", "steps", value, given)
    return Sets({}, "part of training.evals") if isinstance(found, Sets) else found


@_rule
def saves(key: Key, value: str, given: Given) -> Outcome:
    if value == "best":
        return Sets({"training.keep_best": True})
    return _times("checkpoints", value, given.get("save_steps"), given)


@_rule
def with_saves(key: Key, value: float, given: Given) -> Outcome:
    if given.get("save_strategy") != "steps":
        return Left("read where save_strategy is steps")
    return _times("checkpoints", "steps", value, given)


def _times(name: str, strategy: str, each: float, given: Given) -> Outcome:
    """How often over the run, of how often by steps or epochs; without the checkpoint at the end."""
    path, at_the_end = f"training.{name}", name == "checkpoints"
    if strategy == "no":
        return Sets({path: 0})
    steps, epochs = given.get("max_steps"), given.get("num_train_epochs")
    if strategy == "epoch":
        if steps > 0:
            return Left(_WITHOUT_STEPS.format(name=name))
        return Sets({path: max(math.ceil(epochs) - at_the_end, 0)}, "one an epoch")
    if each <= 0:
        return Wrong("It is a number of steps above 0, or a share of the run.", "Write 500.")
    if each < 1:
        return Sets({path: max(round(1 / each) - at_the_end, 0)})
    if steps > 0:
        return Sets({path: int((steps - at_the_end) // each)}, f"of {steps} steps")
    return Left(_WITHOUT_STEPS.format(name=name))


@_rule
def seed(key: Key, value: int, given: Given) -> Outcome:
    own = {} if given.values.get("data_seed") is not None else {"data.seed": value}
    return Sets({"training.seed": value, **own})


@_rule
def output_dir(key: Key, value: str, given: Given) -> Outcome:
    path = PurePath(value)
    if _RUN_NAME.fullmatch(path.name):
        return Sets({"output.folder": str(path.parent), "output.name": path.name})
    return Sets({"output.folder": value})


@_rule
def run_name(key: Key, value: str, given: Given) -> Outcome:
    if given.values.get("output_dir"):
        return Left("the run is called as its folder is, which output_dir says")
    return Sets({"output.name": value})


@_rule
def ray_workers(key: Key, value: int, given: Given) -> Outcome:
    if value <= 1:
        return Holds("one process")
    if places.missing("compute.launch", {}, "ray") is None:
        return Sets({"compute.launch": "ray", "compute.processes": value})
    return Sets({"compute.launch": "torchrun", "compute.processes": value}, "as many processes, without Ray")


@_rule
def engine(key: Key, value: Any, given: Given) -> Outcome:
    if not value:
        return _OFF
    if not isinstance(value, str):
        return Left("write these settings into a file of their own, and its path into compute.engine_config")
    if (given.values.get("ray_num_workers") or 1) > 1:
        return Left("Ray's workers each hold the whole model")
    note = "its processes are as many as compute.processes says"
    return Sets({"compute.engine_config": value, "compute.launch": "torchrun"}, note)


@_rule
def fsdp(key: Key, value: Any, given: Given) -> Outcome:
    if not value:
        return _OFF
    if isinstance(given.values.get("fsdp_config"), str):
        return Holds("fsdp_config says how the model is split")
    return Left("how a model is split is read from a file: write its path into compute.engine_config")


@_rule
def sample(key: Key, value: bool, given: Given) -> Outcome:
    if value:
        return Holds("replies are drawn by the temperature")
    return Sets({}, "temperature 0: always the likeliest token", {"temperature": 0.0})
