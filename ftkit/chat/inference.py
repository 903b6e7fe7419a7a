"""What every way of generating shares: a turn with the model in evaluation mode, its end tokens, its context.

The trainer works on the very same model object. Everything a turn changes (evaluation mode, the adapter
switched off) is put back before the turn ends, and autograd is off through `no_grad`: tensors made under
`inference_mode` could stay in the model's buffers, where the next training step cannot use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from ftkit.errors import FtkitError

if TYPE_CHECKING:
    from ftkit.models import LoadedModel

Which = Literal["base", "adapter"]


@contextmanager
def inference_turn(loaded: LoadedModel, which: Which, who: str) -> Iterator[Any]:
    """A turn of `loaded.gate` with the model ready to generate; yields the model.

    Parameters
    ----------
    which
        `adapter`: the model as it is trained; `base`: the same weights with the adapter switched off.
    who
        Name of the taker, as the gate shows it.

    Raises
    ------
    ModelError
        When `base` is asked of a model whose own weights were trained.
    """
    import torch

    from ftkit.fast.quick import quicken
    from ftkit.models import base_model

    base = base_model(loaded) if which == "base" else nullcontext()
    with loaded.gate.turn(who), torch.no_grad(), base:
        model = loaded.model
        quicken(model)
        was_training = model.training
        model.eval()
        try:
            yield model
        finally:
            if was_training:
                model.train()


def end_ids(loaded: LoadedModel) -> frozenset[int]:
    """Every token that ends a reply: the generation config's, the config's and the tokenizer's own."""
    found: set[int] = set()
    config = loaded.model.config
    for owner in (getattr(loaded.model, "generation_config", None), config, loaded.tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found.update(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return frozenset(found)


def context_length(loaded: LoadedModel) -> int | None:
    """How many tokens the model can look at, or None where its config does not say."""
    config = loaded.model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text, "max_position_embeddings", None)


def room_after(loaded: LoadedModel, prompt_tokens: int) -> int | None:
    """How many tokens fit after a prompt; None: no limit known.

    Raises
    ------
    FtkitError
        When the prompt alone fills the context.
    """
    context = context_length(loaded)
    if context is None:
        return None
    if prompt_tokens >= context:
        msg = f"The conversation is {prompt_tokens} tokens long; this model can look at {context}."
        raise FtkitError(msg, "Clear the chat, or send a shorter message or system prompt.")
    return context - prompt_tokens
