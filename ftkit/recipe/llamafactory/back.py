"""A Recipe as a LLaMA-Factory file, as far as it can be said there.

What cannot is not listed by hand: the file is read again, and every field that comes back different is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftkit.recipe._base import Section
from ftkit.recipe.llamafactory import values
from ftkit.recipe.llamafactory.convert import convert
from ftkit.recipe.llamafactory.datasets import LISTING
from ftkit.recipe.llamafactory.table import Key, same, table
from ftkit.recipe.schema import Recipe

_STARTER = "HuggingFaceTB/SmolLM2-135M-Instruct"
_STAGES = {"pretraining": "pt", "sft": "sft", "reward": "rm", "dpo": "dpo", "kto": "kto", "rloo": "ppo"}
_LOSSES = ("orpo", "simpo")
_METHODS = ("lora", "full", "freeze", "oft")


@dataclass(frozen=True)
class Written:
    """A LLaMA-Factory file.

    Attributes
    ----------
    keys
        Its keys and values.
    left_out
        Fields of the Recipe, by path, that are not what the file says, and why.
    """

    keys: Mapping[str, Any]
    left_out: Mapping[str, str]

    def __str__(self) -> str:
        notes = "".join(f"# not said here: {path}: {why}\n" for path, why in self.left_out.items())
        return notes + yaml.safe_dump(dict(self.keys), sort_keys=False, allow_unicode=True, width=110)


def to_yaml(recipe: Recipe) -> Written:
    """The file that trains by this Recipe; `str()` of it is the YAML."""
    kinds = {"objective": recipe.objective.type, "method": recipe.method.type}
    keys: dict[str, Any] = {"do_train": True}
    for say in (_model, _objective, _method, _data, _training, _compute, _output):
        keys |= say(recipe)
    for path, value in _leaves(recipe):
        key = _plain_key(path, kinds)
        if key is not None and key.name not in keys:
            said = _said(key, value)
            if said is not None:
                keys[key.name] = said
    return Written(keys, _differences(recipe, keys))


def _differences(recipe: Recipe, keys: Mapping[str, Any]) -> dict[str, str]:
    """Fields that the file does not say, or says otherwise."""
    found = convert({"dataset": "none-can-be-named", **keys})
    if found.recipe is None:
        return {"recipe": "; ".join(map(str, found.errors))}
    again = dict(_leaves(found.recipe))
    different = {}
    for path, value in _leaves(recipe):
        other = again.get(path)
        if path != "version" and (path not in again or other != value):
            default = "LLaMA-Factory has no key for it"
            different[path] = f"{values.shown(value)}; {_WHY.get(path, default)}"
    return different


_WHY = {
    "data.source": f"LLaMA-Factory reads what a {LISTING} lists: write an entry for it there",
    "model.source": f"written as {_STARTER}, the same model",
}


def _leaves(section: Section, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every field by its path."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _plain_key(path: str, kinds: Mapping[str, str]) -> Key | None:
    """The key that is this field under another name."""
    stage = _STAGES.get(kinds["objective"], "dpo")
    for key in table().values():
        if key.to != path or key.rule or key.optimizers or key.kinds:
            continue
        if (key.stages and stage not in key.stages) or (key.methods and kinds["method"] not in key.methods):
            continue
        return key
    return None


def _said(key: Key, value: Any) -> Any:
    """The value as LLaMA-Factory has it; None where it is what it takes anyway, or has no word for it."""
    if key.values:
        words = {there: here for there, here in key.values.items() if same(here, value)}
        value = next(iter(words), None)
    if value is None or same(value, key.default) or value in ((), {}):
        return None
    return ", ".join(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _model(recipe: Recipe) -> dict[str, Any]:
    source = recipe.model.source
    found: dict[str, Any] = {"model_name_or_path": _STARTER if source == "starter" else source}
    if recipe.model.revision is not None:
        found["model_revision"] = recipe.model.revision
    adapter = getattr(recipe.method, "start_from", None)
    below = getattr(recipe.method, "stack_on", None)
    if adapter or below:
        found["adapter_name_or_path"] = adapter or below
    if below:
        found["create_new_adapter"] = True
    quantization = getattr(recipe.model, "quantization", None) or ""
    if quantization in ("4bit", "8bit"):
        found["quantization_bit"] = int(quantization[0])
    elif quantization.startswith("hqq"):
        found |= {"quantization_bit": int(quantization[3:]), "quantization_method": "hqq"}
    tokens = getattr(recipe.model, "new_tokens", ())
    if tokens:
        found["add_tokens"] = ", ".join(tokens)
    return found


def _objective(recipe: Recipe) -> dict[str, Any]:
    objective = recipe.objective
    found: dict[str, Any] = {
        "stage": _STAGES.get(objective.type, "dpo" if objective.type in _LOSSES else "sft")
    }
    loss = objective.type if objective.type in _LOSSES else getattr(objective, "loss", None)
    if found["stage"] == "dpo" and loss in ("sigmoid", "hinge", "ipo", *_LOSSES):
        found["pref_loss"] = loss
    if loss in ("dft", "eaft"):
        found[f"use_{loss}_loss"] = True
    train_on = getattr(objective, "train_on", "assistant")
    if train_on != "assistant":
        found["train_on_prompt" if train_on == "all" else "mask_history"] = True
    return found


def _method(recipe: Recipe) -> dict[str, Any]:
    method = recipe.method
    found: dict[str, Any] = {"finetuning_type": method.type if method.type in _METHODS else "lora"}
    targets = getattr(method, "target_modules", None)
    if targets is not None:
        name = "oft_target" if method.type == "oft" else "lora_target"
        found[name] = "all" if targets == "all-linear" else ", ".join(targets)
    if hasattr(method, "alpha"):
        alpha = method.alpha
        found["lora_alpha"] = int(alpha) if alpha == int(alpha) else alpha
    for name, sign in (("last_layers", 1), ("first_layers", -1)):
        if getattr(method, name, None):
            found["freeze_trainable_layers"] = sign * getattr(method, name)
    if getattr(method, "init", None) == "pissa":
        found["pissa_init"] = True
    return found


def _data(recipe: Recipe) -> dict[str, Any]:
    data = recipe.data
    found: dict[str, Any] = {}
    parts = (data, *data.mixed_with)
    folders = {part.source for part in parts}
    names = [part.subset for part in parts]
    if len(folders) == 1 and all(names):
        found = {"dataset_dir": data.source, "dataset": ", ".join(map(str, names))}
    elif not any(names) and all(_on_hub(part.source) for part in parts):
        found = {"dataset_dir": "ONLINE", "dataset": ", ".join(part.source for part in parts)}
    if found and len(parts) > 1 and data.mix != "concat":
        found["interleave_probs"] = ", ".join(f"{part.weight:g}" for part in parts)
    if data.held_out_source is None and data.held_out_fraction:
        found["val_size"] = data.held_out_fraction
    found["cutoff_len"] = data.max_length
    if data.template is not None:
        found["template"] = data.template
    return found


def _on_hub(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not Path(source).exists()


def _training(recipe: Recipe) -> dict[str, Any]:
    training = recipe.training
    found: dict[str, Any] = {"optim": _optimizer(training.optimizer), "seed": training.seed}
    if recipe.data.seed != training.seed:
        found["data_seed"] = recipe.data.seed
    if training.evals:
        found |= {"eval_strategy": "steps", "eval_steps": 1 / training.evals}
    if training.evals == 1:  # a share of the run is less than 1
        del found["eval_steps"]
        found["eval_strategy"] = "epoch"
    found |= (
        {"save_steps": 1 / (training.checkpoints + 1)} if training.checkpoints else {"save_strategy": "no"}
    )
    return found


def _optimizer(name: str) -> str:
    known = table()["optim"].values
    return next((there for there, here in known.items() if here == name), "adamw_torch")


def _compute(recipe: Recipe) -> dict[str, Any]:
    compute = recipe.compute
    again = {"off": {"disable_gradient_checkpointing": True}, "layers": {"gradient_checkpointing": True}}
    found: dict[str, Any] = dict(again.get(compute.gradient_checkpointing, {}))
    found |= {"bfloat16": {"bf16": True}, "float16": {"fp16": True}}.get(compute.dtype, {})
    if not compute.fast.attention:
        found["flash_attn"] = "disabled"
    return found


def _output(recipe: Recipe) -> dict[str, Any]:
    output = recipe.output
    return {"output_dir": str(output.folder / output.name) if output.name else str(output.folder)}
