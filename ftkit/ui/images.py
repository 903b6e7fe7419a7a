"""Images of rows for the page: local files only, by their first bytes, small ones. Nothing is fetched."""

from __future__ import annotations

import base64
import re
from pathlib import Path

LARGEST = 512 * 1024
"""Bytes of a file that is sent to the page; of a larger one only the name is shown."""
_KINDS = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
)
_DATA = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+")
_SHOWN = 80


def thumbnail(address: str, folder: Path | None) -> dict[str, str]:
    """`name`, and `src` (a data: URL) or a `note` that says why there is none.

    Parameters
    ----------
    address
        What the row says: a path, a data: URL, or an address elsewhere, which is named and left alone.
    folder
        Where paths are looked for that are not absolute.
    """
    name = address if len(address) <= _SHOWN else address[: _SHOWN - 1] + "…"
    if address.startswith("data:"):
        good = len(address) <= 2 * LARGEST and _DATA.fullmatch(address)
        return {"name": "data:", "src": address} if good else {"name": name, "note": "not shown"}
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:|[\\/]{2}", address):
        return {"name": name, "note": "not on this machine, not fetched"}
    try:
        path = Path(address).expanduser()
        path = path if path.is_absolute() or folder is None else folder / path
        if not path.is_file():
            return {"name": name, "note": "no such file"}
        if path.stat().st_size > LARGEST:
            return {"name": name, "note": "too large to show"}
        content = path.read_bytes()
    except (OSError, ValueError, RuntimeError):
        return {"name": name, "note": "cannot be read"}
    kind = next((kind for start, kind in _KINDS if content.startswith(start)), "")
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        kind = "webp"
    if not kind:
        return {"name": name, "note": "not an image"}
    return {"name": name, "src": f"data:image/{kind};base64,{base64.b64encode(content).decode()}"}
