"""Keys and tokens taken out of what ftkit writes or shows: events, errors, tracebacks, files of a run.

What is known to be secret is taken out by value (the environment's tokens and the Hub's own store), what
looks like a secret by its form. ftkit itself never writes a token anywhere.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HIDDEN = "[hidden]"
_NAMES = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIALS?)(_|$)", re.IGNORECASE
)
_SHORTEST = 8
"""Characters: a shorter value may be any word."""
_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}"
    r"|glpat-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|AIza[A-Za-z0-9_-]{35}|xox[baprs]-[A-Za-z0-9-]{10,}"
    r"|pypi-[A-Za-z0-9_-]{40,})"
)
_BEARER = re.compile(r"\b(bearer|authorization:? *basic)(\s+)(?=\S*\d)[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://)[^\s/@:]{0,200}:[^\s/@]{1,200}@", re.IGNORECASE)
_PARAMETER = re.compile(
    r"([?&](?:token|access_token|api_key|apikey|key|password|secret|signature|x-amz-signature)=)[^\s&#\"']+",
    re.IGNORECASE,
)
_KEY_BLOCK = re.compile(
    r"-----BEGIN ([A-Z ]{0,40}PRIVATE KEY)-----[A-Za-z0-9+/=\s:,-]{1,10000}?-----END \1-----"
)
_KNOWN_FOR = 5.0
"""Seconds for which the secrets that are known are taken to be the same."""
_known: tuple[float, tuple[str, ...]] = (-1e9, ())


def redact(value: Any) -> Any:
    """A text, or lists and objects of texts, with every secret in them replaced by `[hidden]`."""
    if isinstance(value, str):
        return _redacted(value)
    if isinstance(value, Mapping):
        return {redact(key): redact(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(inner) for inner in value]
    return value


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a key or a token."""
    return _NAMES.search(name) is not None


def _redacted(text: str) -> str:
    if len(text) < _SHORTEST:
        return text
    for secret in _secrets():
        if secret in text:
            text = text.replace(secret, HIDDEN)
    text = _FORMS.sub(HIDDEN, text)
    if "://" in text:
        text = _IN_ADDRESS.sub(rf"\g<1>{HIDDEN}@", text)
    if "=" in text:
        text = _PARAMETER.sub(rf"\g<1>{HIDDEN}", text)
    if "PRIVATE KEY" in text:
        text = _KEY_BLOCK.sub(HIDDEN, text)
    return _BEARER.sub(rf"\g<1>\g<2>{HIDDEN}", text)


def _secrets() -> tuple[str, ...]:
    """The secrets of this process, the longest first: one may begin another."""
    global _known
    now = time.monotonic()
    if now - _known[0] > _KNOWN_FOR:
        values = {value for name, value in os.environ.items() if is_secret_name(name)} | {_stored_token()}
        plain = {value.strip() for value in values}
        found = sorted((one for one in plain if len(one) >= _SHORTEST), key=len, reverse=True)
        _known = now, tuple(found)
    return _known[1]


def _stored_token() -> str:
    """The token that the Hub's own program keeps, read as it reads it."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "huggingface"
    )
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")).read_text(
            encoding="utf-8"
        )
    except (OSError, ValueError):
        return ""
