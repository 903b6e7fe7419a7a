"""Each method of a Recipe on a loaded model: what PEFT is asked for, or which of the model's weights move."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ftkit.errors import ModelError
from ftkit.models import half_quadratic
from ftkit.models.load import LoadedModel
from ftkit.models.quiet import quiet
from ftkit.recipe import (
    BOFT,
    IA3,
    OFT,
    AdaLoRA,
    Adapter,
    Freeze,
    LoRA,
    Method,
    OnLayers,
    PrefixTuning,
    PromptTuning,
    VeRA,
)

_DIRECTIONS = ("pissa", "olora")
Batches = Iterable[Mapping[str, Any]]
"""Padded batches of token ids and attention masks, for first values that come from the data."""


def why_not(method: Method, quantization: str, dtype: str) -> str:
    """Why a method cannot be trained on layers in few bits in this precision; empty where it can.

    Parameters
    ----------
    quantization, dtype
        As in `LoadedModel`.
    """
    in_8, in_4 = (quantization in (f"{n}bit", f"bitsandbytes ({n} bits)") for n in (8, 4))
    mixed = (isinstance(method, IA3) and (in_8 or in_4)) or (isinstance(method, AdaLoRA) and in_8)
    if mixed and dtype != "float32":
        return (
            f"method.type {method.type!r} on weights in few bits ({quantization}) needs compute.dtype "
            f"'float32': its layers put out float32 beside {dtype}"
        )
    return ""


def with_adapter(loaded: LoadedModel, method: Adapter, batches: Batches | None = None) -> Any:
    """The model under a new adapter.

    Raises
    ------
    ModelError
        Where the adapter does not go on the model.
    """
    with quiet():
        from peft import get_peft_model

        base, name = loaded.model, loaded.source.name
        before, advice = _trainable(base), _advice(loaded, method)
        try:
            model = get_peft_model(base, _config(loaded, method))
            _prepare(loaded, model, method, batches)
        except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError) as error:
            _restore(base, before)
            why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            message = f"{type(method).__name__} cannot go on {name}: {why}"
            raise ModelError(message, advice) from None
    return model


def linear_names(model: Any) -> list[str]:
    """The distinct last names of a model's linear layers, such as q_proj; the output layer left out."""
    return list(dict.fromkeys(path.rpartition(".")[2] for path in _linears(model)))


def _linears(model: Any) -> list[str]:
    """Paths of a model's linear layers, the output layer left out."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    kinds = (nn.Linear, Conv1D)
    return [
        name
        for name, part in model.named_modules()
        if (isinstance(part, kinds) or half_quadratic.is_one(part)) and part is not output
    ]


def _trainable(model: Any) -> list[tuple[Any, bool]]:
    return [(parameter, parameter.requires_grad) for parameter in model.parameters()]


def _restore(model: Any, before: list[tuple[Any, bool]]) -> None:
    """PEFT freezes the model before it looks at the layers."""
    for parameter, trained in before:
        parameter.requires_grad_(trained)


def _advice(loaded: LoadedModel, method: Adapter) -> str:
    if isinstance(method, (OnLayers, IA3)):
        names = ", ".join(linear_names(loaded.model))
        return f"Its linear layers are {names}; `all-linear` takes them all. Or choose another method."
    return "Choose another method, such as lora."


# What PEFT is asked for


@functools.singledispatch
def _settings(method: Any, loaded: LoadedModel) -> tuple[str, dict[str, Any]]:
    """Name of PEFT's configuration class, and its arguments."""
    raise NotImplementedError(type(method).__name__)


def _config(loaded: LoadedModel, method: Adapter) -> Any:
    import peft

    kind, settings = _settings(method, loaded)
    if isinstance(method, OnLayers):
        settings = _layers(loaded, method) | settings
    return getattr(peft, kind)(task_type="SEQ_CLS" if loaded.head == "score" else "CAUSAL_LM", **settings)


def _layers(loaded: LoadedModel, method: OnLayers) -> dict[str, Any]:
    targets: Any = method.target_modules
    settings: dict[str, Any] = {"modules_to_save": list(method.modules_to_save) or None}
    if method.layers_to_transform is not None:
        from ftkit.models.blocks import find

        layers, _ = find(loaded.model)
        beyond = [number for number in method.layers_to_transform if number >= len(layers)]
        if beyond:
            raise ValueError(f"there is no decoder layer {beyond[0]}, only 0 to {len(layers) - 1}")
        settings["layers_to_transform"] = list(method.layers_to_transform)
        # PEFT takes layer numbers with names of layers only
        targets = linear_names(loaded.model) if isinstance(targets, str) else targets
    if isinstance(targets, str) and any(half_quadratic.is_one(part) for part in loaded.model.modules()):
        targets = linear_names(loaded.model)  # which PEFT does not take for linear layers by itself
    _known(loaded, () if isinstance(targets, str) else tuple(targets), "target_modules")
    _known(loaded, method.modules_to_save, "modules_to_save")
    settings["target_modules"] = targets if isinstance(targets, str) else list(targets)
    return settings


def _targeted(loaded: LoadedModel, method: OnLayers) -> list[str]:
    """Paths of the linear layers that get an adapter."""
    names = method.target_modules
    return [
        path
        for path in _linears(loaded.model)
        if isinstance(names, str) or any(path == name or path.endswith(f".{name}") for name in names)
    ]


def _known(loaded: LoadedModel, names: tuple[str, ...], field: str) -> None:
    """Every name is that of a module: PEFT leaves out in silence what it does not find."""
    paths = [path for path, _ in loaded.model.named_modules()]
    for name in names:
        if not any(path == name or path.endswith(f".{name}") for path in paths):
            raise ValueError(f"method.{field} names {name!r}, which no module is called")


@_settings.register
def _(method: LoRA, loaded: LoadedModel) -> tuple[str, dict[str, Any]]:
    twice = method.init in _DIRECTIONS
    factor = 2.0**0.5 if method.use_rslora else 2.0
    tokens = [*_token_ids(loaded, method.trainable_tokens), *loaded.new_token_ids]
    settings: dict[str, Any] = {
        "r": method.rank * (2 if twice else 1),
        "lora_alpha": method.alpha * (factor if twice else 1.0),
        "lora_dropout": method.dropout,
        "use_rslora": method.use_rslora,
        "use_dora": method.use_dora,
        "bias": method.bias,
        "init_lora_weights": {"gaussian": "gaussian", "eva": "eva"}.get(method.init, True),
    }
    if tokens and not _embeds(loaded.model, method.modules_to_save):
        if "lm_head" in method.modules_to_save and loaded.model.config.tie_word_embeddings:
            raise ValueError(
                "its embedding and output head share their weights, which method.trainable_tokens and "
                "method.modules_to_save (lm_head) would both train"
            )
        settings["trainable_token_indices"] = sorted(set(tokens))
    if method.stack_on is not None:
        from ftkit.models import stacked

        below = stacked.read(Path(method.stack_on).expanduser())
        settings |= stacked.settings(
            below, _targeted(loaded, method), method.rank, method.alpha / method.rank
        )
    if method.init == "eva":
        from peft import EvaConfig

        settings["eva_config"] = EvaConfig()
    return "LoraConfig", settings


def _embeds(model: Any, modules_to_save: tuple[str, ...]) -> bool:
    """Whether the whole embedding is trained anyway."""
    inputs = model.get_input_embeddings()
    own = next((path for path, module in model.named_modules() if module is inputs), "")
    return any(own == name or own.endswith(f".{name}") for name in modules_to_save)


def _token_ids(loaded: LoadedModel, tokens: tuple[str, ...]) -> list[int]:
    vocabulary = loaded.tokenizer.get_vocab()
    for token in tokens:
        if token not in vocabulary:
            raise ModelError(
                f"method.trainable_tokens names {token!r}, which is no token of {loaded.source.name}.",
                "Add it with model.new_tokens, or name tokens as the vocabulary has them.",
            )
    return [vocabulary[token] for token in tokens]


@_settings.register
def _(method: AdaLoRA, loaded: LoadedModel) -> tuple[str, dict[str, Any]]:
    # How many steps there will be is known when training begins: see `ftkit.train.rank_budget`.
    return "AdaLoraConfig", {
        "target_r": method.rank,
        "init_r": method.first_rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "deltaT": method.interval,
        "orth_reg_weight": method.orthogonality or 1e-30,  # PEFT wants a positive number
        "total_step": 10,
    }


@_settings.register
def _(method: OFT, loaded: LoadedModel) -> tuple[str, dict[str, Any]]:
    return "OFTConfig", {"oft_block_size": method.block_size, "r": 0, "module_dropout": method.dropout}


@_settings.register
def _(method: BOFT, loaded: LoadedModel) -> tuple[str, dict[str, Any]]:
    return "BOFTConfig", {
        "boft_block_size": method.block_size,
        "boft_n_butterfly_factor": 1,  # PEFT has more only where it can compile code for a GPU
        "boft_dropout": method.dropout,
    }


@_settings.register
def _(method: IA3, loaded: LoadedModel) -> tuple[str, dict[str, Any]]:
    settings: dict[str, Any] = {"modules_to_save": list(method.modules_to_save) or None}
    _known(loaded, method.modules_to_save, "modules_to_save")
    if not isinstance(method.target_modules, str):
        _known(loaded, method.target_modules, "target_modules")
        settings["target_modules"] = list(method.target_modules)
        settings["feedforward_modules"] = list(method.feedforward_modules)
        return "IA3Config", settings
    names = linear_names(loaded.model)
    keys = [name for name in ("k_proj", "v_proj", "qkv_proj") if name in names]
    if keys:  # PEFT's own table knows fewer models, and takes queries for keys in some
        inner = [name for name in ("down_proj", "fc2") if name in names]
        settings |= {"target_modules": keys + inner, "feedforward_modules": inner}
    return "IA3Config", settings


@_settings.register
def _(method: VeRA, loaded: LoadedModel) -> tuple[str, dict[str, Any]]:
    return "VeraConfig", {
        "r": method.rank,
        "d_initial": method.first_scale,
        "vera_dropout": method.dropout,
        "save_projection": True,  # other releases and devices draw other numbers from the same seed
    }


@_settings.register
def _(method: PromptTuning, loaded: LoadedModel) -> tuple[str, dict[str, Any]]:
    return "PromptTuningConfig", {"num_virtual_tokens": method.tokens}


@_settings.register
def _(method: PrefixTuning, loaded: LoadedModel) -> tuple[str, dict[str, Any]]:
    return "PrefixTuningConfig", {"num_virtual_tokens": method.tokens}


# First values


def _prepare(loaded: LoadedModel, model: Any, method: Adapter, batches: Batches | None) -> None:
    """First values that PEFT does not give by itself."""
    if isinstance(method, LoRA) and method.init in _DIRECTIONS:
        from ftkit.models.directions import start_from_directions

        start_from_directions(model, method.init, method.rank)
    if isinstance(method, LoRA) and method.stack_on is not None:
        from ftkit.models import stacked

        stacked.fill(model, stacked.read(Path(method.stack_on).expanduser()))
    if isinstance(method, LoRA) and method.init == "loftq":
        from ftkit.models.load import read_whole
        from ftkit.models.loftq import start_from_losses

        start_from_losses(model, read_whole(loaded))
    if isinstance(method, LoRA) and method.init == "eva":
        if batches is None:
            raise ValueError("its first values come from the training rows, and there are none")
        from peft import initialize_lora_eva_weights

        initialize_lora_eva_weights(model, dataloader=list(batches), show_progress_bar=False)
    if isinstance(method, (PromptTuning, PrefixTuning)):
        _begin_with_words(loaded, model, method)


def _begin_with_words(loaded: LoadedModel, model: Any, method: PromptTuning | PrefixTuning) -> None:
    """A learned prompt begins as words: those of the text that is given, or random ones."""
    import torch

    base = model.get_base_model()
    words = base.get_input_embeddings()
    if method.text:
        ids = loaded.tokenizer(method.text, add_special_tokens=False)["input_ids"]
        ids = [ids[place % len(ids)] for place in range(method.tokens)] if ids else []
    else:
        ids = torch.randint(words.weight.shape[0], (method.tokens,)).tolist()
    if not ids:
        raise ValueError("method.text has no tokens")
    given = torch.tensor([ids], device=words.weight.device)
    with torch.no_grad():
        if isinstance(method, PromptTuning):
            model.prompt_encoder["default"].embedding.weight.copy_(words(given)[0])
            return
        from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values
        from transformers import DynamicCache

        # without the configuration every position is kept, also where the model has a window
        cache = DynamicCache()
        base(input_ids=given, past_key_values=cache, use_cache=True)
        initialize_kv_prefix_from_past_key_values(model, past_key_values=cache)


# Going on with an adapter

_SAME: Mapping[str, str] = {
    "rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "bias": "bias",
    "block_size": "oft_block_size",
    "tokens": "num_virtual_tokens",
}
"""Fields of a method that a saved adapter has decided already, by PEFT's names."""


def agrees(method: Adapter, saved: Any) -> None:
    """Check that a Recipe does not ask of a saved adapter what that adapter is not.

    Raises
    ------
    ModelError
        Where it is of another kind, or a field of the Recipe is off its default and unlike the adapter.
    """
    kind = str(getattr(saved.peft_type, "value", saved.peft_type)).lower()
    if kind != method.type:
        raise ModelError(
            f"The adapter in method.start_from is {kind}, and method.type is {method.type}.",
            f"Set method.type to {kind}.",
        )
    for name, theirs in _SAME.items():
        field = type(method).model_fields.get(name)
        if field is None or not hasattr(saved, theirs):
            continue
        mine, its = getattr(method, name), getattr(saved, theirs)
        if mine not in (field.default, its):
            raise ModelError(
                f"method.{name} is {mine}, and the adapter in method.start_from was made with {its}.",
                f"Leave method.{name} out to keep {its}; or start anew without method.start_from.",
            )


# The model's own weights


def free(loaded: LoadedModel, method: Freeze) -> None:
    """Let some of the model's own weights move, in float32; new layers are put in where asked for.

    Raises
    ------
    ModelError
        Where a name is none of the model's, or the model has no layers like that.
    """
    import torch

    from ftkit.models.blocks import expand, find

    model = loaded.model
    layers, _ = find(model)
    chosen: list[Any]
    if method.expand_layers:
        chosen = expand(model, method.expand_layers)
    elif method.first_layers or method.last_layers:
        count = method.first_layers or method.last_layers or 0
        if count > len(layers):
            field = "first_layers" if method.first_layers else "last_layers"
            raise ModelError(
                f"method.{field} is {count}, and {loaded.source.name} has {len(layers)} layers.",
                "Choose fewer, or method full.",
            )
        chosen = list(layers)[:count] if method.first_layers else list(layers)[-count:]
    elif method.modules or method.extra_modules:
        chosen = list(layers) if method.modules else []
    else:
        chosen = list(layers)[-2:]
    parts = [part for layer in chosen for part in _named(layer, method.modules, "modules", layer)]
    if loaded.head == "score":  # it is new
        parts.append(model.score)
    parts += _named(model, method.extra_modules, "extra_modules") if method.extra_modules else []
    model.requires_grad_(False)
    for part in parts:
        # AdamW's updates are far below bfloat16's resolution of the weights they are added to
        for parameter in part.parameters():
            parameter.data = parameter.data.to(torch.float32)
            parameter.requires_grad_(True)


def _named(root: Any, names: tuple[str, ...], field: str, whole: Any = None) -> list[Any]:
    if not names:
        return [whole]
    modules = dict(root.named_modules())
    found = []
    for name in names:
        hits = [module for path, module in modules.items() if path == name or path.endswith(f".{name}")]
        if not hits:
            known = sorted({path.rpartition(".")[2] for path in modules if path} - {""})
            raise ModelError(
                f"method.{field} names {name!r}, which no module there is called.",
                f"They are called {', '.join(n for n in known if not n.isdigit())}.",
            )
        found += hits
    return found
