"""Learned prompts (prompt and prefix tuning) as what they are to the layers: keys and values before the text.

A prompt of embeddings is read by the model once; what that leaves in its cache stands before every row, just
as the keys and values of a learned prefix do. So both go through training, chat and evaluation as a cache
that is not empty at the start, with the model beneath as it is.
"""

from __future__ import annotations

from typing import Any


def has_prompt(model: Any) -> bool:
    """Whether the model has a learned prompt, and that is switched on."""
    return prompt_length(model) > 0


def prompt_length(model: Any) -> int:
    """Positions that a learned prompt takes; 0 without one, or where it is switched off."""
    settings = getattr(model, "peft_config", None)
    if not settings or getattr(model, "_adapters_disabled", False):
        return 0
    active = settings[model.active_adapter]
    return int(active.num_virtual_tokens) if active.is_prompt_learning else 0


def called(model: Any) -> Any:
    """What to call with a cache that begins with the prompt: PEFT's wrapper would put a prompt before it."""
    settings = getattr(model, "peft_config", None)
    if settings and settings[model.active_adapter].is_prompt_learning:
        return model.get_base_model()
    return model


def prompt_cache(model: Any, rows: int, cache: Any = None) -> Any:
    """The learned prompt as a cache of `rows` rows, with gradients where they are on; None without one.

    Parameters
    ----------
    cache
        An empty cache to fill. None: a new one.
    """
    from transformers import DynamicCache

    if not has_prompt(model):
        return cache
    base = model.get_base_model()
    cache = DynamicCache(config=base.config) if cache is None else cache
    prompt = model.get_prompt(rows)
    if hasattr(prompt, "shape"):
        prompt = prompt.to(base.get_input_embeddings().weight.dtype)
        base.get_decoder()(inputs_embeds=prompt, past_key_values=cache, use_cache=True)
        return cache
    for number, layer in enumerate(prompt.layers):
        if layer.keys is not None:
            cache.update(layer.keys, layer.values, number)
    return cache
