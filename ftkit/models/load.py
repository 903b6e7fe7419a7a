"""Load a model and its tokenizer from a Recipe: any causal language model with safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from ftkit.errors import ModelError
from ftkit.folders import is_there, named
from ftkit.models import hub, precision
from ftkit.models.cache import Progress, silent
from ftkit.models.code import code_files
from ftkit.models.device import Device, probe
from ftkit.models.gate import Gate
from ftkit.models.machine import machine_turn
from ftkit.models.quiet import quiet
from ftkit.models.source import ModelSource, resolve
from ftkit.models.starter import STARTER, sound
from ftkit.models.vocabulary import add_tokens
from ftkit.recipe import Compute, Head, Model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


Build = Callable[[ModelSource, Model, Any], Any]
"""A model from where it was found, the Recipe's section, and a torch precision."""


@dataclass
class LoadedModel:
    """A model in memory, its tokenizer, and the gate through which everybody takes turns with it.

    Attributes
    ----------
    model
        A transformers model; a `PeftModel` around it once an adapter is on.
    device
        "cpu" or "cuda".
    dtype
        Precision of the weights: "float32", "bfloat16" or "float16".
    method
        How it has been made trainable: "none", or the type of the Recipe's method, such as "lora".
    head
        "words", or "score" where it puts out one number for a whole text.
    new_token_ids
        Tokens that were added to the vocabulary.
    own_biases
        Biases of the model that an adapter trains in place, each with its value before.
    quantization
        In how few bits the linear layers are: the Recipe's word, or how the checkpoint was packed before.
        Empty: whole.
    config
        What the Recipe says of the model.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    device: str
    dtype: str
    gate: Gate = field(default_factory=Gate)
    method: str = "none"
    head: Head = "words"
    new_token_ids: tuple[int, ...] = ()
    own_biases: list[tuple[Any, Any]] = field(default_factory=list)
    quantization: str = ""
    config: Model = field(default_factory=Model)

    @property
    def adapted(self) -> bool:
        """Whether there is an adapter beside the weights, so that the base model is still there."""
        return hasattr(self.model, "peft_config")


def load_model(
    config: Model,
    compute: Compute,
    *,
    adapter: Path | None = None,
    progress: Progress | None = None,
    build: Build | None = None,
    head: Head = "words",
) -> LoadedModel:
    """Load the model that a Recipe names, ready to talk or to be trained.

    Parameters
    ----------
    config, compute
        The Recipe's sections.
    adapter
        Folder of an adapter to put on, for talking; it is not trained on.
    progress
        Told what happens; may raise to cancel.
    build
        Makes the model from its files; transformers does by default.
    head
        "score" for a reward model; the head is new, with random values, where the model has none.

    Raises
    ------
    ModelError
        Where the model cannot be had or read, or the device is not there.
    """
    tell = progress or silent
    device = pick_device(compute)
    precision.check(config, compute, device)
    source = resolve(config, offline=compute.offline, progress=tell, thorough=True)
    own = precision.packed_in(source.path)
    precision.check_packed(own, config, source.name)
    tell(f"Loading {source.name}", None)
    with quiet():
        import torch

        dtype = pick_dtype(compute, device)
        if device.kind == "cpu":
            torch.set_num_threads(compute.threads or device.cores)
        tokenizer = _tokenizer(source, config)
        made = getattr(torch, dtype)
        more = precision.loading(config, made, device, own)
        how = build or partial(_model, head=head, more=more)
        model = how(source, config, made)
        new = add_tokens(model, tokenizer, config.new_tokens) if config.new_tokens else ()
        try:
            if "device_map" not in more:  # else it is there already, and must not be moved
                model.to(device.kind)
            precision.settle(model, config, made, device)
        except torch.OutOfMemoryError:
            raise ModelError(
                f"{source.name} does not fit into the {device.free_gb:.1f} GB free on {device.name}.",
                "Choose a smaller model, or compute.device cpu.",
            ) from None
        _settle_special_tokens(model, tokenizer)
        model.eval()
    loaded = LoadedModel(
        model,
        tokenizer,
        source,
        device.kind,
        dtype,
        Gate(machine_turn(device.kind)),
        head=head,
        new_token_ids=new,
        quantization=(own.name if own else config.quantization) or "",
        config=config,
    )
    if adapter is not None:
        from ftkit.models.adapters import load_adapter

        load_adapter(loaded, adapter)
    return loaded


def read_whole(loaded: LoadedModel) -> Any:
    """The weights of a quantized model as its files have them, in its precision, in the main memory.

    Raises
    ------
    ModelError
        Where the files hold packed weights themselves.
    """
    import torch

    if (own := precision.packed_in(loaded.source.path)) is not None:
        raise ModelError(
            f"{loaded.source.name} has no whole weights: they are packed by {own.name}.",
            "Name the model with whole weights, and set model.quantization.",
        )
    return _model(loaded.source, loaded.config, getattr(torch, loaded.dtype), loaded.head)


def load_tokenizer(
    config: Model, *, offline: bool = False, progress: Progress | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer alone, for looking at tokens; the model is fetched where it is not here yet.

    Raises
    ------
    ModelError
        Where the model cannot be had or its tokenizer cannot be read.
    """
    source = resolve(config, offline=offline, progress=progress)
    (progress or silent)(f"Loading the tokenizer of {source.name}", None)
    with quiet():
        tokenizer = _tokenizer(source, config)
    tokenizer.add_tokens(list(config.new_tokens))
    return tokenizer


def on_this_machine(config: Model) -> bool:
    """Whether the model's files are here already, so that loading it fetches nothing."""
    if config.source == "starter":
        return sound(STARTER)[0] is not None or hub.cached(STARTER.hub_id, None) is not None
    if is_there(named(config.source)):
        return True
    return hub.cached(config.source, config.revision, code=config.trust_remote_code) is not None


def pick_device(compute: Compute) -> Device:
    """The device to run on.

    Raises
    ------
    ModelError
        Where CUDA is asked for and there is none.
    """
    device = probe(compute.device)
    if compute.device == "cuda" and device.kind != "cuda":
        raise ModelError(
            "The recipe asks for a CUDA GPU, and torch finds none on this machine.",
            "Set compute.device to auto or cpu; or install a torch build for CUDA and NVIDIA's driver.",
        )
    return device


def pick_dtype(compute: Compute, device: Device) -> Literal["float32", "bfloat16", "float16"]:
    """Precision of the weights: bfloat16 only where the hardware computes in it, unless asked for."""
    if compute.dtype != "auto":
        return compute.dtype
    return "bfloat16" if device.native_bf16 else "float32"


def _tokenizer(source: ModelSource, config: Model) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            source.path, trust_remote_code=config.trust_remote_code, local_files_only=True
        )
    except Exception as error:
        raise _unreadable(source, "tokenizer", error) from error


def _model(
    source: ModelSource,
    config: Model,
    dtype: torch.dtype,
    head: Head = "words",
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind, settings = (
        (AutoModelForSequenceClassification, {"num_labels": 1})
        if head == "score"
        else (AutoModelForCausalLM, {})
    )
    try:
        return kind.from_pretrained(
            source.path,
            **settings,
            dtype=dtype,
            trust_remote_code=config.trust_remote_code,
            local_files_only=True,
            use_safetensors=True,
            **more,
        )
    except MemoryError:
        raise ModelError(f"{source.name} does not fit into memory.", "Choose a smaller model.") from None
    except Exception as error:
        raise _unreadable(source, "model", error) from error


def _unreadable(source: ModelSource, what: str, error: Exception) -> ModelError:
    text = str(error).strip()
    first = text.splitlines()[0][:300] if text else type(error).__name__
    if "trust_remote_code" in text:
        names = ", ".join(code_files(source.path))[:1000]
        return ModelError(
            f"{source.name} needs Python code that comes with it: {names}.",
            "ftkit does not run it. Read these files; if you trust them, set model.trust_remote_code.",
        )
    if "Unrecognized configuration class" in text or "model type" in text:
        return ModelError(
            f"{source.name} is not a causal language model that the installed transformers knows: {first}",
            "Choose a decoder model (Llama, Qwen, Gemma, SmolLM...), or update transformers.",
        )
    if what == "tokenizer":
        advice = "Copy the tokenizer's files (tokenizer.json, tokenizer_config.json) beside the weights."
    else:
        advice = "The files may be damaged or cut short: fetch or copy the model again."
    return ModelError(f"The {what} of {source.name} cannot be read from {source.path}: {first}", advice)


def _settle_special_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make tokenizer and model agree on padding and on where a reply ends.

    Padding is never trained on and never attended to, so the end token may serve where there is no other.
    """
    if tokenizer.pad_token_id is None:
        known = tokenizer.get_vocab()
        names = (
            "<|finetune_right_pad_id|>",
            "<pad>",
            "[PAD]",
            "<|pad|>",
            tokenizer.eos_token,
            "<|endoftext|>",
            "</s>",
        )
        tokenizer.pad_token = next((name for name in names if name in known), None) or next(iter(known))
    model.config.pad_token_id = tokenizer.pad_token_id
    generation = getattr(model, "generation_config", None)
    if generation is None:
        return
    generation.pad_token_id = tokenizer.pad_token_id
    ends = generation.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        generation.eos_token_id = [*ends, tokenizer.eos_token_id] if ends else tokenizer.eos_token_id
