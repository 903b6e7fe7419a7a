"""The token view: what the model reads, one cell a token, with the tokens it is trained on coloured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    on_step
        Called with 1 or -1 when Page Down or Page Up ask for the next row or the one before.
    """

    _esm = front.esm("tokens/widget.js")
    _css = front.css("tokens/widget.css")

    tokens = traitlets.List(traitlets.Dict()).tag(sync=True)
    """One dict a token."""
    label = traitlets.Unicode("Tokens").tag(sync=True)
    """What the tokens are of."""
    text = traitlets.Unicode("").tag(sync=True)
    """All of them as text, for the button that copies it; empty: the tokens' texts."""
    count = traitlets.Int(-1).tag(sync=True)
    """Tokens there are, where `tokens` are only the first of them; negative: those are all."""
    trained = traitlets.Int(-1).tag(sync=True)
    """Of these, the trained ones."""
    pages = traitlets.Bool(False).tag(sync=True)
    """Whether Page Up and Page Down go to the rows before and after."""

    def __init__(
        self,
        tokens: Iterable[Mapping[str, Any]] = (),
        label: str = "Tokens",
        on_step: Callable[[int], None] | None = None,
        **traits: Any,
    ) -> None:
        super().__init__(
            tokens=[dict(token) for token in tokens], label=label, pages=on_step is not None, **traits
        )
        self._on_step = on_step
        self.on_msg(self._asked)

    def __repr__(self) -> str:
        trained = sum(bool(token.get("trained")) for token in self.tokens)
        return f"TokenView({self.label!r}, tokens={len(self.tokens)}, trained={trained})"

    def _asked(self, _widget: Any, content: Any, _buffers: Any) -> None:
        if not isinstance(content, dict) or "id" not in content:
            return
        step = content.get("step")
        understood = self._on_step is not None and isinstance(step, int)
        if self._on_step is not None and isinstance(step, int):
            self._on_step(step)
        self.send({"id": content["id"], "ok": understood})
