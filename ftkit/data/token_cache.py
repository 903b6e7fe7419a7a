"""Encoded rows kept on disk, by the content of the rows and every setting that decides their tokens.

An entry is found again only where all of it is the same: the rows, the tokenizer, the chat template, the
Recipe's settings, and the code of `ftkit.data` itself. A damaged entry is removed and made anew. The oldest
entries go when all together take more than `LIMIT_BYTES`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.data import entries, token_store
from ftkit.data.example import Example, Refusal
from ftkit.data.examples import OnDemand
from ftkit.errors import TemplateError

if TYPE_CHECKING:
    from ftkit.data.encode import EncodedSet
    from ftkit.data.template import Template

LIMIT_BYTES = 4_000_000_000
"""Entries beyond this are removed, those first that have not been used for longest."""


def key(examples: Sequence[Example], template: Template, settings: Mapping[str, Any]) -> str | None:
    """The name of the entry of these rows under these settings; None where it cannot be known."""
    tokenizer = _tokenizer(template)
    if tokenizer is None:
        return None
    digest = hashlib.sha256(tokenizer)
    digest.update(entries.code_digest().encode())
    digest.update(json.dumps(settings, sort_keys=True, default=_plain).encode())
    known = examples.digest() if isinstance(examples, OnDemand) else None
    if known is not None:
        digest.update(known)
        return digest.hexdigest()
    names = {
        kind: [field.name for field in dataclasses.fields(kind) if field.name != "extra"]
        for kind in {type(example) for example in examples}
    }
    for example in examples:
        kind = type(example)
        parts = [kind.__name__, *(getattr(example, name) for name in names[kind])]
        digest.update(json.dumps(parts, default=_plain).encode())
    return digest.hexdigest()


def read(folder: Path, name: str) -> EncodedSet | None:
    """The entry `name`, mapped from disk, or None."""
    from ftkit.data.encode import EncodedSet

    entry = folder / name
    found = token_store.read(entry)
    try:
        if found is None:
            raise ValueError(entry)
        rows, about = found
        refused = tuple(Refusal(row, reason) for row, reason in about["refused"])
        made = EncodedSet(rows, refused, tuple(about["shortened"]))
        (entry / entries.ABOUT).touch()
    except (KeyError, TypeError, ValueError, OSError):
        shutil.rmtree(entry, ignore_errors=True)
        return None
    return made


def _tokenizer(template: Template) -> bytes | None:
    """What decides how a text is rendered and cut into tokens."""
    tokenizer = template.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    backend.no_padding()  # these come and go with each call, and are part of its text
    backend.no_truncation()
    try:
        source = template.source
    except TemplateError:
        source = ""  # plain text needs none
    facts = [
        type(tokenizer).__name__,
        tokenizer.special_tokens_map,
        tokenizer.eos_token_id,
        getattr(tokenizer, "split_special_tokens", False),
        source,
        template.system_prompt,
        time.strftime("%Y-%m-%d") if "strftime_now" in source else "",
    ]
    return backend.to_str().encode() + json.dumps(facts, default=_plain).encode()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return vars(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
