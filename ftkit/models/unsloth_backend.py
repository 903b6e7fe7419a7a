"""The Unsloth backend: Unsloth's model and adapter layers under ftkit's batches, loss, trainer and run.

Only Unsloth's documented calls are used: `FastLanguageModel.from_pretrained` and `get_peft_model`. The
tokenizer is the model's own as everywhere in ftkit, so that ids and mask are the same arrays. Unsloth changes
transformers, PEFT and TRL when it is imported and wants to come before them.

Run for real: Unsloth 2026.10.9 in its CPU mode, LoRA and full fine-tuning, from a Recipe to a saved adapter
that PEFT loads without Unsloth. Not run: a GPU, which is what it is made for; the keywords passed are held to
the signatures of the released package by a test.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.util import find_spec
from typing import Any, Literal

from ftkit.errors import ModelError
from ftkit.models.adapters import name_base
from ftkit.models.device import probe
from ftkit.models.load import Build, LoadedModel
from ftkit.models.methods import linear_names
from ftkit.models.quiet import prepare_environment, quiet
from ftkit.models.source import ModelSource
from ftkit.recipe import LoRA, Model, Recipe, why_not_unsloth

Backend = Literal["ftkit", "unsloth"]

_LATE = (
    "transformers was imported in this process before Unsloth, which then leaves out some of its changes. "
    "Restart the kernel and start the run before a model is opened, or use `ftkit run recipe.yaml`."
)


def pick_backend(recipe: Recipe) -> tuple[Backend, str]:
    """Whose layers train, and what the person should know about that; empty for nothing.

    Raises
    ------
    ModelError
        When the Recipe asks for Unsloth and it is not installed.
    """
    asked = recipe.compute.backend
    late = "transformers" in sys.modules and "unsloth" not in sys.modules
    if asked == "ftkit":
        return "ftkit", ""
    if asked == "unsloth":
        if not _installed():
            raise ModelError(
                "compute.backend is unsloth, and the package unsloth is not installed.",
                "Install it (pip install 'ftkit[unsloth]') and start again, or set compute.backend to ftkit.",
            )
        return "unsloth", _LATE if late else ""
    if not _installed() or probe(recipe.compute.device).kind != "cuda":
        return "ftkit", ""
    if reason := why_not_unsloth(recipe):
        return "ftkit", f"Unsloth is installed and not used: {reason}."
    if late:
        return "ftkit", f"Unsloth is installed and not used: {_LATE}"
    return "unsloth", ""


def import_unsloth() -> Any:
    """The package; call this before transformers is imported.

    Raises
    ------
    ModelError
        Where it cannot be imported on this machine.
    """
    prepare_environment()
    # Without it a model asked for logits may answer with none: ftkit makes its loss itself.
    os.environ.setdefault("UNSLOTH_RETURN_LOGITS", "1")
    try:
        return importlib.import_module("unsloth")
    except (ImportError, NotImplementedError, RuntimeError, OSError) as error:
        raise ModelError(
            f"Unsloth cannot be imported: {str(error).strip()[:300] or type(error).__name__}",
            "Set compute.backend to ftkit, or see Unsloth's own page on installing it.",
        ) from error


def builder(recipe: Recipe) -> Build:
    """How `load_model` gets its model through Unsloth."""

    def build(source: ModelSource, config: Model, dtype: Any) -> Any:
        arguments = loading(recipe, str(source.path), dtype)
        try:
            model, _ = import_unsloth().FastLanguageModel.from_pretrained(**arguments)
        except MemoryError:
            raise ModelError(f"{source.name} does not fit into memory.", "Choose a smaller model.") from None
        except Exception as error:
            raise ModelError(
                f"Unsloth cannot load {source.name}: {str(error).strip()[:300] or type(error).__name__}",
                "Set compute.backend to ftkit.",
            ) from error
        return model

    return build


def loading(recipe: Recipe, path: str, dtype: Any) -> dict[str, Any]:
    """Keywords of `FastLanguageModel.from_pretrained`."""
    import torch

    full = recipe.method.type == "full"
    return {
        "model_name": path,
        "max_seq_length": recipe.data.max_length,
        "dtype": torch.float32 if full else dtype,  # trained weights are kept in float32, as everywhere
        "load_in_4bit": False,
        "full_finetuning": full,
        "trust_remote_code": recipe.model.trust_remote_code,
        "use_gradient_checkpointing": recomputation(recipe),
        "random_state": recipe.training.seed,
    }


def adapting(recipe: Recipe, method: LoRA, names: list[str]) -> dict[str, Any]:
    """Keywords of `FastLanguageModel.get_peft_model`, beside the model."""
    return {
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "target_modules": names if method.target_modules == "all-linear" else list(method.target_modules),
        "bias": "none",
        "use_rslora": method.use_rslora,
        "use_gradient_checkpointing": recomputation(recipe),
        "random_state": recipe.training.seed,
        "max_seq_length": recipe.data.max_length,
    }


def recomputation(recipe: Recipe) -> Literal["unsloth"] | bool:
    """What Unsloth makes again in the backward pass: layers, in its own way, unless that is switched off."""
    return False if recipe.compute.gradient_checkpointing == "off" else "unsloth"


def make_trainable(loaded: LoadedModel, recipe: Recipe) -> None:
    """`apply_method` for a model that `builder` made.

    Raises
    ------
    ModelError
        Where Unsloth does not take the method on this model.
    """
    method = recipe.method
    if not isinstance(method, LoRA):
        loaded.dtype, loaded.method = "float32", "full"
        return
    arguments = adapting(recipe, method, linear_names(loaded.model))
    with quiet():
        try:
            loaded.model = import_unsloth().FastLanguageModel.get_peft_model(loaded.model, **arguments)
        except Exception as error:
            raise ModelError(
                f"Unsloth cannot put LoRA on {method.target_modules!r} of {loaded.source.name}: "
                f"{str(error).strip()[:300] or type(error).__name__}",
                "Set compute.backend to ftkit, or name other method.target_modules.",
            ) from error
    name_base(loaded.model, loaded)
    loaded.method = "lora"


def _installed() -> bool:
    return find_spec("unsloth") is not None
