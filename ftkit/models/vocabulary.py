"""New tokens in a model's vocabulary, each beginning as the mean of the pieces it was written with before."""

from __future__ import annotations

from typing import Any

from ftkit.errors import ModelError


def add_tokens(model: Any, tokenizer: Any, tokens: tuple[str, ...]) -> tuple[int, ...]:
    """Add tokens to the tokenizer, and rows to the embedding and to the output head; the new ids.

    Raises
    ------
    ModelError
        When a token is in the vocabulary already, or is empty.
    """
    import torch

    vocabulary = tokenizer.get_vocab()
    for token in tokens:
        if not token.strip() or token in vocabulary:
            what = "is empty" if not token.strip() else "is in the vocabulary already"
            raise ModelError(
                f"model.new_tokens: {token!r} {what}.",
                "Name it in method.trainable_tokens to train it, or leave it out.",
            )
    pieces = [tokenizer(token, add_special_tokens=False)["input_ids"] for token in tokens]
    tokenizer.add_tokens(list(tokens))
    ids = tuple(tokenizer.convert_tokens_to_ids(list(tokens)))
    rows = model.get_input_embeddings().weight.shape[0]
    if max(ids) >= rows:  # many models have rows to spare
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    weights = [inputs.weight]
    if outputs is not None and outputs.weight is not inputs.weight:
        weights.append(outputs.weight)
    with torch.no_grad():
        for weight in weights:
            for number, parts in zip(ids, pieces, strict=True):
                known = weight[: min(ids)] if not parts else weight[parts]
                weight[number] = known.float().mean(dim=0).to(weight.dtype)
    return ids
