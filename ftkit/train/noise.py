"""NEFTune: noise on the embeddings while training (Jain et al. 2023, arXiv:2310.05914).

Each element of a row of L tokens and d dimensions is moved by at most alpha / sqrt(L d). Rows may lie end to
end: L is the length of a token's own row, not of the batch.
"""

from __future__ import annotations

from typing import Any

import torch


class Noise:
    """Adds the noise to a model's embeddings in training mode, until `remove` is called."""

    def __init__(self, model: Any, alpha: float) -> None:
        self.alpha = alpha
        self._lengths: torch.Tensor | None = None
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._hooks = [
            base.get_decoder().register_forward_pre_hook(self._look, with_kwargs=True),
            base.get_input_embeddings().register_forward_hook(self._add),
        ]

    def remove(self) -> None:
        """Give the model back as it was."""
        for hook in self._hooks:
            hook.remove()

    def _look(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """The length of each token's row, (rows, tokens) or broadcast to it."""
        starts, mask = kwargs.get("cu_seqlens"), kwargs.get("attention_mask")
        if starts is not None:
            sizes = (starts[1:] - starts[:-1]).long()
            self._lengths = sizes.repeat_interleave(sizes)[None]
        elif mask is not None and mask.dim() == 2:
            self._lengths = mask.sum(dim=1, keepdim=True)
        else:
            self._lengths = None

    def _add(self, module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training or not torch.is_grad_enabled() or output.dim() != 3:
            return output
        _, tokens, width = output.shape
        lengths = self._lengths if self._lengths is not None else torch.tensor([[tokens]])
        reach = self.alpha / (lengths.to(output.device, output.dtype) * width).sqrt()
        return output + torch.empty_like(output).uniform_(-1, 1) * reach[..., None]
