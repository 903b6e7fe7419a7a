"""Make a loaded model trainable, save what was trained, and look past it to the base model.

One copy of the weights serves both: the base model is the adapted one with its adapter switched off.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftkit.errors import ModelError
from ftkit.models.load import LoadedModel
from ftkit.models.quiet import quiet
from ftkit.models.starter import STARTER
from ftkit.recipe import LoRA, Method


@dataclass(frozen=True)
class ParameterCount:
    """How many parameters a model has and how many of them are trained."""

    trainable: int
    total: int


def apply_method(loaded: LoadedModel, method: Method) -> None:
    """Make the model trainable as the Recipe's method says; `loaded.model` is replaced in place.

    Random first values of an adapter come from torch's generator: seed it before.

    Raises
    ------
    ModelError
        Where the method does not go with the model, or the model has been made trainable before.
    """
    if loaded.method != "none":
        raise ModelError(
            f"The model is already set up for {loaded.method} training.", "Load it again for another method."
        )
    if isinstance(method, LoRA):
        loaded.model = _with_lora(loaded, method)
        loaded.method = "lora"
        return
    # AdamW's updates are far below bfloat16's resolution of the weights they are added to: the weights that
    # are trained are kept in float32.
    loaded.model.float().requires_grad_(True)
    loaded.dtype = "float32"
    loaded.method = "full"


def _with_lora(loaded: LoadedModel, method: LoRA) -> Any:
    with quiet():
        from peft import LoraConfig, get_peft_model

        targets = method.target_modules
        settings = LoraConfig(
            r=method.rank,
            lora_alpha=method.alpha,
            lora_dropout=method.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            use_rslora=method.use_rslora,
            use_dora=method.use_dora,
            bias="none",
            task_type="SEQ_CLS" if loaded.head == "score" else "CAUSAL_LM",
        )
        try:
            model = get_peft_model(loaded.model, settings)
        except ValueError as error:
            names = ", ".join(linear_names(loaded.model))
            raise ModelError(
                f"LoRA cannot go on {method.target_modules!r} of {loaded.source.name}: {str(error)[:200]}",
                f"Its linear layers are {names}; `all-linear` takes them all.",
            ) from None
    name_base(model, loaded)
    return model


def linear_names(model: Any) -> list[str]:
    """The distinct last names of a model's linear layers, such as q_proj; the output layer left out."""
    import torch

    output = model.get_output_embeddings()
    found = [
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    ]
    return list(dict.fromkeys(found))


def name_base(model: Any, loaded: LoadedModel) -> None:
    """Write into the adapter which model it belongs to, by a name that means something on another machine."""
    source = loaded.source
    if source.requested == "starter":
        name = STARTER.hub_id
    elif source.kind == "hub":
        name = source.name
    else:
        name = source.origin if source.kind == "gguf" and source.origin else str(source.path)
    settings = model.peft_config["default"]
    settings.base_model_name_or_path = name
    settings.revision = source.revision


def save_adapter(loaded: LoadedModel, folder: str | Path) -> Path:
    """Save what was trained to `folder`: the adapter; or, for full fine-tuning, model and tokenizer.

    Files are written beside the folder and moved in whole, so that a crash leaves the old ones.

    Raises
    ------
    ModelError
        Where the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as work:
            with quiet():
                if loaded.method == "lora":
                    # "auto" would ask the Hub for the base model's configuration.
                    loaded.model.save_pretrained(work, save_embedding_layers=False)
                else:
                    loaded.model.save_pretrained(work)
                    loaded.tokenizer.save_pretrained(work)
            for file in Path(work).iterdir():
                if file.name != "README.md":
                    shutil.move(file, folder / file.name)
    except OSError as error:
        raise ModelError(
            f"The trained weights cannot be written to {folder}: {error.strerror or error}.",
            "Free some space or change the folder's permissions, then save again.",
        ) from None
    return folder


def load_adapter(loaded: LoadedModel, folder: str | Path, *, trainable: bool = False) -> None:
    """Put a saved adapter on a loaded model; `loaded.model` is replaced in place.

    Raises
    ------
    ModelError
        Where the folder holds no adapter, or one of another model.
    """
    folder = Path(folder)
    if loaded.method != "none":
        raise ModelError(
            "The model has an adapter or was trained already.", "Load it again to put another adapter on."
        )
    if not (folder / "adapter_config.json").is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{folder} holds no adapter (adapter_config.json and adapter_model.safetensors).",
            "Give the `adapter` folder of a run that saved one.",
        )
    with quiet():
        from peft import PeftModel

        try:
            loaded.model = PeftModel.from_pretrained(
                loaded.model,
                str(folder),
                is_trainable=trainable,
                torch_device=loaded.device,
                local_files_only=True,
            )
        except Exception as error:
            raise ModelError(
                f"The adapter in {folder} does not go on {loaded.source.name}: {str(error).strip()[:300]}",
                "Load the base model that it was trained on; or the files are damaged.",
            ) from error
    loaded.method = "lora"


@contextlib.contextmanager
def base_model(loaded: LoadedModel) -> Iterator[Any]:
    """The model as it was before training: its adapter is off inside the block. Take `loaded.gate` first.

    Raises
    ------
    ModelError
        After full fine-tuning, where the weights themselves were changed.
    """
    if loaded.method == "full":
        raise ModelError(
            "Full fine-tuning changes the weights themselves: the base model is no longer in memory.",
            "Open the base model on its own to compare.",
        )
    if loaded.method == "none":
        yield loaded.model
        return
    with loaded.model.disable_adapter():
        yield loaded.model


def count_parameters(model: Any) -> ParameterCount:
    """Parameters of a model: trained ones, and all; tied ones count once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterCount(sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes))
