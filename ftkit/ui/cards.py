"""Cards of which one is chosen: a name, a sentence, the papers, and why it cannot be had where it cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import anywidget
import traitlets

from ftkit.recipe.cards import Card
from ftkit.ui import front


class Cards(anywidget.AnyWidget):
    """Choose one card. A card with a reason against it is greyed out and cannot be chosen in the page.

    Parameters
    ----------
    cards
        What there is to choose from.
    label
        What is chosen, for people who do not see it.
    value
        The type of the card chosen.
    """

    _esm = front.esm("cards/widget.js")
    _css = front.asset("cards/widget.css")

    cards = traitlets.List(traitlets.Dict()).tag(sync=True)
    """See `ftkit.recipe.cards.Card`; `reason` is why one cannot be had, or empty."""
    label = traitlets.Unicode("").tag(sync=True)
    """What is chosen."""
    value = traitlets.Unicode("").tag(sync=True)
    """The type of the card chosen."""

    def __init__(self, cards: Sequence[Card], label: str, value: str, **traits: Any) -> None:
        plain: list[dict[str, Any]] = [asdict(card) | {"reason": ""} for card in cards]
        super().__init__(cards=plain, label=label, value=value, **traits)

    def __repr__(self) -> str:
        return f"Cards({self.label!r}, value={self.value!r})"

    @property
    def reasons(self) -> dict[str, str]:
        """Why cards are greyed out, by their type."""
        return {card["type"]: card["reason"] for card in self.cards if card["reason"]}

    def grey_out(self, reasons: Mapping[str, str]) -> None:
        """Grey out these cards, by their type, with the reason on each; the others can be chosen."""
        changed = [card | {"reason": reasons.get(card["type"], "")} for card in self.cards]
        if changed != self.cards:
            self.cards = changed
