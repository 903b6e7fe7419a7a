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
from ftkit.models.methods import Batches, agrees, free, why_not, with_adapter
from ftkit.models.quiet import quiet
from ftkit.models.starter import STARTER
from ftkit.recipe import Adapter, Freeze, Method


@dataclass(frozen=True)
class ParameterCount:
    """How many parameters a model has and how many of them are trained."""

    trainable: int
    total: int


def apply_method(loaded: LoadedModel, method: Method, batches: Batches | None = None) -> None:
    """Make the model trainable as the Recipe's method says; `loaded.model` is replaced in place.

    Random first values of an adapter come from torch's generator: seed it before.

    Parameters
    ----------
    batches
        Padded batches of training rows (input_ids, attention_mask), for a method whose first values come
        from them. Read once, and only then.

    Raises
    ------
    ModelError
        Where the method does not go with the model, or the model has been made trainable before.
    """
    if loaded.method != "none":
        raise ModelError(
            f"The model is already set up for {loaded.method} training.", "Load it again for another method."
        )
    if loaded.quantization and method.saves == "model":
        raise ModelError(
            f"The weights of {loaded.source.name} are in few bits ({loaded.quantization}), which method.type "
            f"{method.type!r} cannot train.",
            "Train an adapter: method.type lora. Or name the model with whole weights.",
        )
    if reason := why_not(method, loaded.quantization, loaded.dtype):
        raise ModelError(f"{reason}.", "Set compute.dtype to float32, or choose another method.")
    if isinstance(method, Adapter):
        if method.start_from is not None:
            _go_on(loaded, method, method.start_from)
        else:
            biases = _biases(loaded.model)
            loaded.model = with_adapter(loaded, method, batches)
            loaded.own_biases = _changed(loaded, biases)
        name_base(loaded.model, loaded)
    elif isinstance(method, Freeze):
        free(loaded, method)
    else:
        # AdamW's updates are far below bfloat16's resolution of the weights they are added to: the weights
        # that are trained are kept in float32.
        loaded.model.float().requires_grad_(True)
        loaded.dtype = "float32"
    loaded.method = method.type
    if loaded.dtype == "float16":  # scaled gradients are unscaled in float32 only, as updates are added
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def _go_on(loaded: LoadedModel, method: Adapter, start_from: str) -> None:
    folder = Path(start_from).expanduser()
    settings = adapter_settings(folder)
    agrees(method, settings)
    load_adapter(loaded, folder, trainable=True)


def name_base(model: Any, loaded: LoadedModel) -> None:
    """Write into the adapter which model it belongs to, by a name that means something on another machine."""
    settings = model.peft_config["default"]
    settings.base_model_name_or_path = _lasting_name(loaded)
    settings.revision = loaded.source.revision


def _lasting_name(loaded: LoadedModel) -> str:
    source = loaded.source
    if source.requested == "starter":
        return STARTER.hub_id
    if source.kind == "hub":
        return source.name
    return source.origin if source.kind == "gguf" and source.origin else str(source.path)


def made_for_another(loaded: LoadedModel, folder: str | Path) -> str:
    """What to know of an adapter that fits a model by its shapes and names another; else empty.

    The other may be the same model at another place.
    """
    named = adapter_settings(folder).base_model_name_or_path
    if not named or named == _lasting_name(loaded):
        return ""
    return (
        f"The adapter in {folder} was made for {named}, and goes on {loaded.source.name}. It fits by its "
        "shapes; it means something only if that is the same model."
    )


def save_adapter(loaded: LoadedModel, folder: str | Path) -> Path:
    """Save what was trained to `folder`: the adapter; or, where its own weights were, model and tokenizer.

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
                if loaded.adapted:
                    with _all_ranks(loaded.model):
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


@contextlib.contextmanager
def _all_ranks(model: Any) -> Iterator[None]:
    """AdaLoRA's matrices whole: PEFT would cut ranks out, and scale the rest otherwise than in training."""
    settings = model.peft_config["default"]
    pattern = getattr(settings, "rank_pattern", None)
    if settings.peft_type != "ADALORA" or not pattern:
        yield
        return
    settings.rank_pattern = None
    try:
        yield
    finally:
        settings.rank_pattern = pattern


def adapter_settings(folder: str | Path) -> Any:
    """PEFT's configuration of a saved adapter.

    Raises
    ------
    ModelError
        Where the folder holds no adapter, or its configuration cannot be read.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{folder} holds no adapter (adapter_config.json and adapter_model.safetensors).",
            "Give the `adapter` folder of a run that saved one.",
        )
    with quiet():
        from peft import PeftConfig

        try:
            return PeftConfig.from_pretrained(str(folder))
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise ModelError(
                f"adapter_config.json in {folder} cannot be read: {str(error)[:200]}",
                "Copy the adapter's files again.",
            ) from None


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
    settings = adapter_settings(folder)
    biases = _biases(loaded.model)
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
                f"It was trained on {settings.base_model_name_or_path or 'another model'}: load that one. "
                "Or its files are damaged.",
            ) from error
    loaded.own_biases = _changed(loaded, biases)
    loaded.method = str(settings.peft_type.value).lower()


@contextlib.contextmanager
def base_model(loaded: LoadedModel) -> Iterator[Any]:
    """The model as it was before training: its adapter is off inside the block. Take `loaded.gate` first.

    Raises
    ------
    ModelError
        After training of the model's own weights, where those were changed.
    """
    if loaded.method != "none" and not loaded.adapted:
        raise ModelError(
            "Training changes the model's own weights: the base model is no longer in memory.",
            "Open the base model on its own to compare.",
        )
    if loaded.method == "none":
        yield loaded.model
        return
    trained = [(bias, bias.data) for bias, _ in loaded.own_biases]
    for bias, own in loaded.own_biases:  # PEFT leaves them as trained
        bias.data = own
    try:
        with loaded.model.disable_adapter():
            yield loaded.model
    finally:
        for bias, value in trained:
            bias.data = value


def _biases(model: Any) -> list[tuple[Any, Any]]:
    """The model's biases, and a copy of each: they are small."""
    return [(p, p.detach().clone()) for name, p in model.named_parameters() if name.endswith("bias")]


def _changed(loaded: LoadedModel, biases: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Of `biases`, all where the adapter has some that it trains in place."""
    kind = getattr(loaded.model.peft_config["default"], "bias", "none")
    return biases if kind not in ("none", None) else []


def count_parameters(model: Any) -> ParameterCount:
    """Parameters of a model: trained ones, and all; tied ones count once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterCount(sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes))
