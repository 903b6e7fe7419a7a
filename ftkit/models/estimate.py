"""How much memory a fine-tune will need, beside what is free: before anything is loaded, without torch.

The values that a layer keeps are counted from the model's structure, and the peak is taken where it lies: at
the end of the forward pass, where the embedding's gradient is made, in the optimizer's step, or while the
weights are read. `tests/benchmarks/memory.py` holds that against what runs need.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ftkit.errors import ModelError
from ftkit.folders import is_there, named
from ftkit.models import architecture, catalog, folder, hub, precision, sizes
from ftkit.models.architecture import Architecture
from ftkit.models.cache import silent
from ftkit.models.device import Device, compilers, probe
from ftkit.models.source import looks_like_hub_id
from ftkit.models.teacher import teacher_of
from ftkit.recipe import (
    IA3,
    Freeze,
    LoRA,
    Method,
    Model,
    OnLayers,
    PrefixTuning,
    PromptTuning,
    Recipe,
    Training,
)
from ftkit.recipe.optimizers import OPTIMIZERS

Verdict = Literal["fits", "tight", "will not fit", "unknown"]

_RUNTIME_GB = 0.6
"""Python, torch, transformers and the panels; on a GPU, CUDA's own context. Measured: 0.52 once all is
imported, 0.57 when the first step begins, panels and weights left out."""
_LATER_GB = 0.1
"""Of it, what is imported after the weights have been read (Trainer, PEFT). Measured: with all of it imported
before, the peak while weights are made from a file of another precision is 0.09 higher (two small models)."""
_HOLES = 0.4
"""Values' worth of memory that the passing buffers of a layer leave unused between those that are kept, per
value that goes into or comes out of a linear layer. Measured: what the peaks of three small models (LoRA, 8
rows of 334 tokens) hold beyond what is counted is 0.37 to 0.41 of it; glibc has about as much free then."""
_HOLES_MADE_AGAIN = 0.3
"""The same in float32 where whole layers are made again: what is kept of each is little, and most buffers are
so large that they are given back at once (`ftkit.fast.allocator`). Measured: 0.2 to 0.34 on four models."""
_PASSING = 2
"""Where large tensors come from a pool there are hardly any holes: what passes is so many times one layer's
linear inputs and outputs. Measured: 1.2 to 3 times, 8 rows of 235 to 334 tokens, three models."""
_FILE_BYTES = 2
"""Of a weight in the model's file, which is mapped into memory while the weights are made: nearly all
checkpoints are in bfloat16."""
_SCORES_UP_TO, _BLOCK = 384, 256
"""Attention weights of longer rows are made again rather than kept; those of so many queries are made
together and end with the last one's key (`ftkit.fast.attention`)."""
_SLICE_BYTES, _SLICE_ROWS = 48 * 2**20, 64
"""Of a slice of logits in float32, and the rows that it has at least (`ftkit.fast.loss`)."""
LEVELS = ("off", "attention", "mlp", "layers")
"""What the backward pass makes again, from nothing to whole layers."""
_COMFORT = 0.75
"""Up to this share of the free memory a fine-tune fits with room to spare."""
_BESIDE_GB = 0.3
"""Slices of two models' distributions, and what a divergence keeps of them."""
_STARTER_ROWS = {"starter:extract": 70, "starter:persona": 70}
"""Mean length of the starter sets' rows, in tokens, on the high side."""
_UNKNOWN_ROWS = 256
"""Tokens of a row where nothing is known of the data."""

_STARTER_CONFIG = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49_152,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class MemoryEstimate:
    """What a fine-tune will need. Sizes are in 10^9 bytes.

    Attributes
    ----------
    peak_gb
        The most that is needed at once; None where it cannot be known.
    parts
        What the peak is made of: runtime, weights, adapter, gradients, optimizer, activations (with the holes
        between them), buffers, logits and teacher; loading, where the weights take more than training does.
    free_gb, total_gb
        Memory of the device.
    verdict
        "fits", "tight", "will not fit" or "unknown".
    device
        What it would run on.
    reason
        The verdict in a sentence, with what was assumed.
    parameters, trainable
        Of the model; None where they cannot be known.
    recompute
        What the backward pass makes again (see `LEVELS`): as asked, or chosen.
    """

    peak_gb: float | None
    parts: Mapping[str, float]
    free_gb: float
    total_gb: float
    verdict: Verdict
    device: Device
    reason: str
    parameters: int | None = None
    trainable: int | None = None
    recompute: str = "off"


def estimate(recipe: Recipe, *, row_tokens: int | None = None) -> MemoryEstimate:
    """Estimate the memory that a Recipe needs, from the model's configuration alone.

    A Hub model that is neither on this machine nor in the catalogue costs a request or two for its
    config.json: call this outside the thread that serves the panels.

    Parameters
    ----------
    recipe
        The fine-tune.
    row_tokens
        Mean length of the training rows, both sides of a pair together, where the data has been looked at
        already.
    """
    device = probe(recipe.compute.device)
    if device.kind == "cpu":  # processes that train together share its memory, each needs the whole
        device = replace(device, free_gb=device.free_gb / recipe.compute.processes)
    try:
        precision.check(recipe.model, recipe.compute, device)
        found = find_architecture(recipe.model, offline=recipe.compute.offline)
    except ModelError as error:
        return _unknown(device, error.message)
    if found is None:
        return _unknown(device, "Its config.json does not say how large the model is.")
    if recipe.compute.device == "cuda" and device.kind != "cuda":
        return _unknown(device, "The recipe asks for a CUDA GPU, and there is none on this machine.")
    teacher: Architecture | None = None
    if (asked := teacher_of(recipe)) is not None:
        try:
            teacher = find_architecture(asked, offline=recipe.compute.offline)
        except ModelError as error:
            return _unknown(device, f"objective.teacher: {error.message}")
        if teacher is None:
            return _unknown(device, "The teacher's config.json does not say how large it is.")
    tokens = row_tokens or _STARTER_ROWS.get(recipe.data.source) or _UNKNOWN_ROWS
    texts = 2 if recipe.objective.reads == "pairs" else 1
    tokens = min(tokens, texts * recipe.data.max_length)
    trainable = sizes.trainable(found, recipe.method)
    level, parts = _level(found, recipe, device, tokens, trainable, teacher)
    peak = sum(parts.values())
    verdict = _verdict(peak, device.free_gb)
    known = "" if row_tokens or recipe.data.source in _STARTER_ROWS else ", a guess until the data is read"
    reason = (
        f"About {peak:.1f} GB of the {device.free_gb:.1f} GB that are free on {device.name}: "
        f"{_WORDS[verdict]} Counted with {_a_batch(recipe.training, tokens)}{known}{_AGAIN[level]}."
    )
    if verdict in {"tight", "will not fit"}:
        reason += f" {_advice(parts, recipe)}"
    return MemoryEstimate(
        peak,
        parts,
        device.free_gb,
        device.memory_gb,
        verdict,
        device,
        reason,
        found.parameters,
        trainable,
        level,
    )


def recomputation(recipe: Recipe, *, row_tokens: int) -> tuple[str, str]:
    """What `gradient_checkpointing: auto` means on this machine now: one of `LEVELS`, and why."""
    answer = estimate(recipe, row_tokens=row_tokens)
    return answer.recompute, answer.reason


def _level(
    found: Architecture,
    recipe: Recipe,
    device: Device,
    row_tokens: int,
    trainable: int,
    teacher: Architecture | None,
) -> tuple[str, dict[str, float]]:
    """What is made again, and the parts of the peak with it; `auto` is the first level that fits well."""
    asked = recipe.compute.gradient_checkpointing
    if isinstance(recipe.method, PromptTuning | PrefixTuning):
        asked = "off"  # a learned prompt is a cache, which made-again layers would fill twice
    parts: dict[str, float] = {}
    for level in LEVELS if asked == "auto" else (asked,):
        parts = _parts(found, recipe, device, row_tokens, trainable, level)
        if teacher is not None:
            parts["teacher"] = _of_teacher(teacher, recipe, device, row_tokens) / 1e9
        if sum(parts.values()) <= _COMFORT * device.free_gb:
            break
    return level, parts


_AGAIN = {
    "off": "",
    "attention": ", attention weights made again in the backward pass",
    "mlp": ", attention weights and feed-forward made again in the backward pass",
    "layers": ", every layer made again in the backward pass",
}
_WORDS: Mapping[Verdict, str] = {
    "fits": "it fits.",
    "tight": "tight, other programs may push it over.",
    "will not fit": "it will not fit.",
}


def find_architecture(model: Model, *, offline: bool = False) -> Architecture | None:
    """Sizes of the model that a Recipe names, without its weights.

    Raises
    ------
    ModelError
        Where its configuration cannot be had.
    """
    if model.source == "starter":
        return architecture.read(_STARTER_CONFIG)
    path = named(model.source)
    if is_there(path):
        gguf = folder.gguf_or_none(path)
        return _of_gguf(gguf) if gguf else _of_file(path / "config.json", model)
    if not looks_like_hub_id(model.source):
        raise folder.not_found(model.source)
    known = catalog.find(model.source) if model.revision is None else None
    if known is not None and known.config:
        return architecture.read(known.config)
    path = hub.config_file(model.source, model.revision, silent, offline=offline or hub.offline())
    return _of_file(path, model)


def _of_file(path: Path, model: Model) -> Architecture | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "Copy the model's config.json again.") from None
    found = architecture.read(config) if isinstance(config, dict) else None
    own = precision.packed(config) if found is not None else None
    if found is None or own is None:
        return found
    precision.check_packed(own, model, model.source)
    return replace(found, packed=own.bytes)


@functools.lru_cache(maxsize=8)
def _of_gguf(path: Path) -> Architecture | None:
    from gguf import GGUFReader

    try:
        fields = GGUFReader(path).fields
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(f"{path} cannot be read as GGUF: {error}", "Download or copy it again.") from None
    kind = str(fields["general.architecture"].contents()) if "general.architecture" in fields else ""

    def number(key: str) -> Any:
        field = fields.get(f"{kind}.{key}")
        return field.contents() if field is not None else None

    words = fields.get("tokenizer.ggml.tokens")
    config = {
        "model_type": kind,
        "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "head_dim": number("attention.key_length"),
        "num_experts": number("expert_count"),
        "vocab_size": number("vocab_size") or (len(words.data) if words is not None else None),
        "tie_word_embeddings": True,
    }
    return architecture.read(config)


def _parts(
    found: Architecture, recipe: Recipe, device: Device, row_tokens: int, trainable: int, level: str
) -> dict[str, float]:
    method, training, compute = recipe.method, recipe.training, recipe.compute
    # Full fine-tuning keeps and computes in float32.
    size = 4 if method.type == "full" else _bytes_of_a_weight(recipe, device)
    batch = training.batch_tokens or training.batch_size * row_tokens
    optimizer = OPTIMIZERS[training.optimizer]
    at_once = trainable / _trained_layers(found, method) if optimizer.by_layers else trainable
    weights = _weights(found, recipe.model, size)
    activations = batch * size * _activations(found, recipe, device, row_tokens, trainable, level)
    slices = max(_SLICE_ROWS, _SLICE_BYTES // (4 * found.vocab_size)) * found.vocab_size * size
    gradients, copies = _gradients(found, recipe, at_once, activations)
    parts = {
        "runtime": _RUNTIME_GB * 1e9,
        "weights": weights,
        "adapter": trainable * 4 if method.saves == "adapter" else 0,
        "gradients": gradients,
        "optimizer": at_once * optimizer.state_bytes,
        "activations": activations,
        "buffers": copies + (slices if compute.fast.loss else 0),
        # Without the fast way: all logits and their gradient, and four fp32 copies of the trained half.
        "logits": 0 if compute.fast.loss else batch * found.vocab_size * (2 * size + 8),
    }
    used = sum(parts.values()) - parts["runtime"] - weights
    parts["loading"] = max(0.0, _beside_weights(found, recipe, device, size) - used)
    return {name: value / 1e9 for name, value in parts.items() if value}


def _activations(
    found: Architecture, recipe: Recipe, device: Device, row_tokens: int, trainable: int, level: str
) -> float:
    """Values that the forward pass leaves behind of each token, with the holes between them."""
    half = recipe.method.type != "full" and _bytes_of_a_weight(recipe, device) == 2
    pooled = _pooled(recipe, device)
    share = 0.0 if pooled else _HOLES_MADE_AGAIN if level == "layers" and not half else _HOLES
    kept, holes = _kept(found, recipe, device, level), share * found.width
    passing = _PASSING * found.width if pooled else 0
    # attention in float32 is torch's own, which keeps no weights
    if half and device.kind == "cpu" and level in ("off", "layers") and row_tokens <= _SCORES_UP_TO:
        kept += found.heads * _keys(row_tokens) if recipe.compute.fast.attention else 0
    if level == "layers":  # of one after the other all that it keeps, of the others their input
        return found.layers * (found.hidden_size + holes) + kept + holes + passing
    made = found.layers * (kept + holes) + passing
    method = recipe.method
    if isinstance(method, Freeze) and not method.first_layers and not method.expand_layers:
        # nothing is kept of the layers before the first that is trained
        made *= min(1.0, trainable / found.parameters + 0.1)
    return made


def _fused(recipe: Recipe) -> bool:
    """Whether the layers run as ftkit's own nodes (`ftkit.fast.pieces`), as far as the Recipe tells."""
    method, fast = recipe.method, recipe.compute.fast
    return (
        isinstance(method, LoRA)
        and not (method.use_dora or method.dropout)
        and bool(fast.lora and fast.mlp)
        and recipe.model.quantization is None
    )


def _pooled(recipe: Recipe, device: Device) -> bool:
    """Whether their large tensors come from a pool (`ftkit.fast.pool`)."""
    return device.kind == "cpu" and sys.platform == "linux" and _fused(recipe)


def _keys(row_tokens: int) -> float:
    """Keys that a query's attention weights are kept for, on average."""
    ends = [min(start + _BLOCK, row_tokens) for start in range(0, row_tokens, _BLOCK)]
    return sum((end - start) * end for start, end in zip([0, *ends], ends, strict=False)) / row_tokens


def _kept(found: Architecture, recipe: Recipe, device: Device, level: str) -> float:
    """Values that the backward pass finds of a token in one layer, attention weights left out."""
    method, fast = recipe.method, recipe.compute.fast
    hidden, inner = found.hidden_size, found.inner_width
    heads = found.query_width + found.key_width if found.head_norms else 0
    kept: float = found.norms * hidden + heads  # what goes into the norms
    kept += 2 * found.query_width + 2 * found.key_width  # into attention and out of it
    if not (_pooled(recipe, device) and fast.norms and compilers()):
        kept += 2 * hidden  # into the projections, where they are not made again from the norms'
    within = (4 if found.gated else 2) * inner
    if not isinstance(method, LoRA | OnLayers | IA3):
        return kept + within + found.norms * hidden + heads  # trained norms keep what they put out
    half = _bytes_of_a_weight(recipe, device) == 2
    if half and not fast.norms:
        kept += 2 * found.norms * hidden  # in float32
    if isinstance(method, LoRA):
        kept += len(found.linears) * method.rank
        if _fused(recipe):
            return kept + (0 if level == "mlp" else 2 * inner)
        variant = bool(method.use_dora or method.dropout)
    else:
        variant = True
    # PEFT's layers keep a copy of their input in another precision; or changed, and what came out
    return kept + within + (found.width if variant else found.input_width if half else 0)


def _gradients(
    found: Architecture, recipe: Recipe, at_once: float, activations: float
) -> tuple[float, float]:
    """Bytes of gradients beside the activations at the peak, and of copies of the largest matrix.

    The layers' gradients come into memory that the backward pass has freed, unless all are there from the
    passes before it. The embedding's and the head's are too large for that.
    """
    method, training = recipe.method, recipe.training
    by_layers = OPTIMIZERS[training.optimizer].by_layers
    matrix = found.vocab_size * found.hidden_size
    words = 0 if by_layers else sizes.words(found, method)
    again = training.gradient_accumulation_steps > 1
    of_words = 4 * words * matrix
    of_layers = 4 * at_once - of_words
    gradients = of_words + (of_layers if again else max(0.0, of_layers - activations))
    # The same matrix as embedding and as head, or in a later pass: another gradient is added to the first.
    added = 4 * matrix if words and (again or found.tied) else 0
    if method.saves == "model" and training.optimizer == "adamw":
        return gradients, added  # one kernel, without copies
    largest = max(one.inputs * one.outputs for one in found.linears.values())
    largest = matrix if words else largest if method.saves == "model" else 0
    return gradients, max(added, 2 * 4 * largest)


def _beside_weights(found: Architecture, recipe: Recipe, device: Device, size: int) -> float:
    """Bytes beside the weights while these are made: of their file, or of whole weights beside small ones."""
    loftq = isinstance(recipe.method, LoRA) and recipe.method.init == "loftq" and device.kind == "cpu"
    if loftq or (recipe.model.quantization or "").startswith("hqq"):
        return found.parameters * size
    if device.kind != "cpu":
        return 0.0
    file = found.parameters * (found.packed or _FILE_BYTES)
    # Weights of the file's own precision lie in it until they are moved, when all libraries are there.
    return file if size == _FILE_BYTES else file - _LATER_GB * 1e9


def _trained_layers(found: Architecture, method: Method) -> int:
    """Decoder layers that are trained."""
    if isinstance(method, Freeze):
        chosen = method.last_layers or method.first_layers or method.expand_layers
        return min(chosen or (found.layers if method.modules else 2), found.layers)
    return found.layers


def _of_teacher(teacher: Architecture, recipe: Recipe, device: Device, row_tokens: int) -> float:
    """Bytes that a teacher needs: its weights, one layer's values, both models' distributions."""
    training = recipe.training
    size = _bytes_of_a_weight(recipe, device)
    batch = training.batch_tokens or training.batch_size * row_tokens
    beside = _BESIDE_GB * 1e9 if recipe.compute.fast.loss else batch * teacher.vocab_size * 32
    return _weights(teacher, recipe.model, size) + batch * size * teacher.width + beside


def _bytes_of_a_weight(recipe: Recipe, device: Device) -> int:
    dtype = recipe.compute.dtype
    half = dtype in ("bfloat16", "float16") or (dtype == "auto" and device.native_bf16)
    return 2 if half else 4


def _weights(found: Architecture, model: Model, size: int) -> float:
    """Bytes of the weights: those of linear layers may be of few bits."""
    each = precision.BYTES[model.quantization] if model.quantization else found.packed
    if each is None:
        return found.parameters * size
    inside = found.layers * sum(one.inputs * one.outputs * one.count for one in found.linears.values())
    return inside * each + (found.parameters - inside) * size


def _a_batch(training: Training, row_tokens: int) -> str:
    if training.batch_tokens:
        return f"batches of {training.batch_tokens} tokens, rows of {row_tokens}"
    return f"{training.batch_size} rows of {row_tokens} tokens"


def _verdict(peak_gb: float, free_gb: float) -> Verdict:
    if peak_gb <= _COMFORT * free_gb:
        return "fits"
    return "tight" if peak_gb <= free_gb else "will not fit"


def _advice(parts: Mapping[str, float], recipe: Recipe) -> str:
    """What would help most."""
    passing = parts["activations"] + parts.get("logits", 0.0)
    if passing > parts["weights"] + parts.get("gradients", 0.0) + parts.get("optimizer", 0.0):
        if recipe.training.batch_tokens:
            return "Fewer batch_tokens help most; gradient_accumulation_steps makes up for it."
        if recipe.training.batch_size > 1:
            return "A smaller batch_size helps most; gradient_accumulation_steps makes up for it."
        if recipe.compute.gradient_checkpointing not in {"auto", "layers"}:
            return "gradient_checkpointing helps most."
        return "A shorter max_length helps most."
    return "LoRA needs far less." if recipe.method.type == "full" else "A smaller model helps most."


def _unknown(device: Device, why: str) -> MemoryEstimate:
    return MemoryEstimate(
        None,
        {},
        device.free_gb,
        device.memory_gb,
        "unknown",
        device,
        f"The memory cannot be estimated. {why}",
    )
