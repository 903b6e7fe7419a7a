"""The chat's widget: transcript, message box, settings. Knows nothing of models; the ChatPanel feeds it."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import anywidget
import traitlets

from ftkit.errors import FtkitError
from ftkit.redact import redact
from ftkit.ui import front

_log = logging.getLogger(__name__)
UPDATES_A_SECOND = 20
PATIENCE = 0.3
"""Seconds between updates that nobody says to have drawn: the page is hidden, or a cell keeps the kernel."""


class Transcript(anywidget.AnyWidget):
    """A conversation and what it takes to go on with it. All of its state survives a reload of the page.

    Parameters
    ----------
    on_action
        Called with the name of an action (`send`, `stop`, `clear`, `regenerate`, `mode`, `settings`, `open`)
        and its fields when a person asks for it. It must return at once; an error it raises is shown.
    """

    _esm = front.esm("chat/widget.js")
    _css = front.css("chat/widget.css")

    turns: list[dict[str, Any]] = traitlets.List(traitlets.Dict()).tag(sync=True)
    """Finished turns: `id`, `user`, `mode`, `replies` (`base`, `adapter`), `error`; or `id` and `note`."""
    live: dict[str, Any] = traitlets.Dict().tag(sync=True)
    """The turn that is being answered; empty when none is."""
    replying = traitlets.Bool(False).tag(sync=True)
    """Whether a reply is under way."""
    subject = traitlets.Unicode("").tag(sync=True)
    """Name of what is talked to; empty: nothing yet."""
    mode = traitlets.Enum(("base", "adapter", "both"), "adapter").tag(sync=True)
    """Who answers."""
    modes: dict[str, str] = traitlets.Dict().tag(sync=True)
    """Each mode with the reason why it cannot be had, or an empty text."""
    settings: dict[str, str] = traitlets.Dict().tag(sync=True)
    """The settings as the fields show them."""
    note = traitlets.Unicode("").tag(sync=True)
    """What the run does meanwhile."""
    status = traitlets.Unicode("").tag(sync=True)
    """What is being waited for."""
    fraction = traitlets.Float(-1.0).tag(sync=True)
    """How far that is; negative where unknown."""
    suggestions: list[str] = traitlets.List(traitlets.Unicode()).tag(sync=True)
    """Messages to try."""
    runs: list[dict[str, str]] = traitlets.List(traitlets.Dict()).tag(sync=True)
    """Runs to open: `path`, `name`, `detail`."""

    def __init__(self, on_action: Callable[[str, Mapping[str, Any]], Any], **traits: Any) -> None:
        super().__init__(**traits)
        self._on_action = on_action
        self._updates = self._drawn = 0
        self._updated = self._delay = 0.0
        self.on_msg(self._answer)

    def __repr__(self) -> str:
        return f"Transcript({self.subject!r}, turns={len(self.turns)})"

    def stream(self, turn: Callable[[], dict[str, Any]]) -> bool:
        """Show the turn as far as it is, unless the page has not yet drawn the one before.

        A slow page is thus never far behind, however fast the model writes: what it is told after that (that
        a reply was stopped) does not stand at the end of a queue.

        Returns
        -------
        bool
            Whether it was shown. Otherwise there is nothing to make up for: the next one has it all.
        """
        drawn = self._drawn == self._updates
        pause = 1 / UPDATES_A_SECOND if drawn else max(PATIENCE, 2 * self._delay)
        if time.monotonic() - self._updated < pause:
            return False
        self._updates += 1
        self._updated = time.monotonic()
        self.live = {**turn(), "update": self._updates}
        return True

    def _answer(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Every message that asks for something is answered, whatever it asks for."""
        if isinstance(content, dict) and content.get("drawn") == self._updates:
            self._drawn = self._updates
            self._delay = time.monotonic() - self._updated
        if not isinstance(content, dict) or "id" not in content:
            return
        answer: dict[str, Any] = {"id": content["id"], "ok": True}
        try:
            self._on_action(str(content.get("action")), content)
        except FtkitError as error:
            answer |= {"ok": False, "error": {"message": error.message, "advice": error.advice}}
        except Exception as error:  # noqa: BLE001  the person who clicked gets it
            _log.error("the chat could not do what was asked\n%s", redact(traceback.format_exc()))
            said = redact(f"{type(error).__name__}: {error}")
            answer |= {"ok": False, "error": {"message": said, "advice": ""}}
        self.send(answer)
