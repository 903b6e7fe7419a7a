"""The token view: what the model reads, one cell a token, with the tokens it is trained on coloured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import anywidget
import traitlets

from ftkit.ui import front


class TokenView(anywidget.AnyWidget):
    """Tokens of one example, as `ftkit.data.preview_tokens` gives them.

    Parameters
    ----------
    tokens
        One mapping a token: `id` (int), `text` (str), `trained` (bool), `special` (bool).
    label
        What the tokens are of, such as "Row 12".
    """

    _esm = front.asset("tokens/widget.js")
    _css = front.css("tokens/widget.css")

    tokens = traitlets.List(traitlets.Dict()).tag(sync=True)
    """One dict a token."""
    label = traitlets.Unicode("Tokens").tag(sync=True)
    """What the tokens are of."""

    def __init__(
        self, tokens: Iterable[Mapping[str, Any]] = (), label: str = "Tokens", **traits: Any
    ) -> None:
        super().__init__(tokens=[dict(token) for token in tokens], label=label, **traits)

    def __repr__(self) -> str:
        trained = sum(bool(token.get("trained")) for token in self.tokens)
        return f"TokenView({self.label!r}, tokens={len(self.tokens)}, trained={trained})"
