"""Files from the browser into the kernel's folder, a piece at a time, so that neither stands still."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ftkit.errors import DataError, FtkitError
from ftkit.redact import redact
from ftkit.ui import front
from ftkit.ui.receiving import Receiving

PIECE = 2_000_000
"""Bytes of a piece: far below what servers accept as one message."""


class Upload(anywidget.AnyWidget):
    """A place to drop files on.

    Parameters
    ----------
    on_files
        Called with the paths once all files of one drop are there.
    folder
        Where they go; None: `uploads` beside the notebook.
    """

    _esm = front.esm("upload/widget.js")
    _css = front.css("upload/widget.css")

    piece = traitlets.Int(PIECE).tag(sync=True)
    """Bytes of a piece."""
    place = traitlets.Unicode("").tag(sync=True)
    """Where the files go, for people."""

    def __init__(self, on_files: Callable[[Sequence[Path]], Any], folder: Path | None = None) -> None:
        self.folder = folder or Path("uploads")
        beside = "" if self.folder.is_absolute() else " beside this notebook"
        super().__init__(place=f"{self.folder}/{beside}")
        self._on_files = on_files
        self._receiving: Receiving | None = None
        self._done: list[Path] = []
        self.on_msg(self._asked)

    def __repr__(self) -> str:
        return f"Upload(folder={str(self.folder)!r})"

    def close(self) -> None:
        """Remove the widget, and what has come of a file that is not whole."""
        self._cancel()
        super().close()

    def _asked(self, _widget: Any, content: Any, buffers: Any) -> None:
        """`begin`, `piece`, `end`, `all` or `cancel`; each is answered under its id."""
        if not isinstance(content, dict) or "id" not in content:
            return
        answer: dict[str, Any] = {"id": content["id"], "ok": True}
        try:
            answer |= self._carry_out(content, buffers or ())
        except FtkitError as error:
            self._cancel()
            answer |= {"ok": False, "error": f"{error.message} {error.advice}".strip()}
        except Exception as error:  # noqa: BLE001 - the page waits for an answer, whatever it is
            self._cancel()
            answer |= {"ok": False, "error": redact(f"The kernel failed: {type(error).__name__}: {error}")}
        self.send(answer)

    def _carry_out(self, content: dict[str, Any], buffers: Sequence[Any]) -> dict[str, Any]:
        what, at = content.get("what"), content.get("at")
        if what == "begin" and isinstance(content.get("size"), int) and isinstance(content.get("name"), str):
            self._cancel()
            self._receiving = Receiving(self.folder, content["name"], content["size"])
            return {"at": 0}
        if what == "cancel":
            self._cancel()
            self._done = []
            return {}
        if what == "all":
            self._cancel()
            done, self._done = self._done, []
            if done:
                self._on_files(done)
            return {}
        if self._receiving is None:
            raise DataError("Nothing is being uploaded.", "Choose the file again.")
        if what == "piece" and isinstance(at, int) and len(buffers) == 1:
            self._receiving.take(at, buffers[0])
            return {"at": self._receiving.at}
        if what == "end":
            path = self._receiving.finish()
            self._receiving = None
            self._done.append(path)
            return {"path": str(path)}
        raise DataError("The page and the kernel do not understand each other.", "Reload the page.")

    def _cancel(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None
