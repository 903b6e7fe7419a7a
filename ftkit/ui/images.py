"""Images of rows for the page: local files only, by their first bytes, small ones. Nothing is fetched."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Literal

from ftkit.folders import inside, named

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
MOST_PIXELS = 40_000_000
"""Of an image that is sent to the page: a small file may unpack to gigabytes there."""
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


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
        good = len(address) <= 2 * LARGEST and _DATA.fullmatch(address) and _is_small(address)
        return {"name": "data:", "src": address} if good else {"name": name, "note": "not shown"}
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:|[\\/]{2}", address):
        return {"name": name, "note": "not on this machine, not fetched"}
    try:
        path = inside(folder or Path.cwd(), named(address))
        if path is None:
            return {"name": name, "note": "outside the data's folder, not shown"}
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
    if _pixels(kind, content) > MOST_PIXELS:
        return {"name": name, "note": "too many pixels to show"}
    return {"name": name, "src": f"data:image/{kind};base64,{base64.b64encode(content).decode()}"}


def _is_small(address: str) -> bool:
    head, _, packed = address.partition(",")
    try:
        content = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        return False
    return _pixels(head[len("data:image/") : -len(";base64")], content) <= MOST_PIXELS


def _pixels(kind: str, content: bytes) -> int:
    """Width times height, by what stands at the beginning; 0 where it does not say."""
    if kind == "png":
        return _number(content[16:20], "big") * _number(content[20:24], "big")
    if kind == "gif":
        return _number(content[6:8]) * _number(content[8:10])
    if kind == "jpeg":
        return _pixels_of_jpeg(content)
    match content[12:16]:
        case b"VP8X":
            return (_number(content[24:27]) + 1) * (_number(content[27:30]) + 1)
        case b"VP8L":
            bits = _number(content[21:25])
            return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
        case b"VP8 ":
            return (_number(content[26:28]) & 0x3FFF) * (_number(content[28:30]) & 0x3FFF)
    return 0


def _pixels_of_jpeg(content: bytes) -> int:
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        if content[at + 1] in _START_OF_FRAME:
            return _number(content[at + 5 : at + 7], "big") * _number(content[at + 7 : at + 9], "big")
        at += 2 + max(_number(content[at + 2 : at + 4], "big"), 1)
    return 0


def _number(data: bytes, order: Literal["little", "big"] = "little") -> int:
    return int.from_bytes(data, order)
