"""Masks by the bytes of the tokens are those by the tokenizer's offsets, whatever is said."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, normalizers

from ftkit.data import Conversation, Message, Template, encode_all
from ftkit.data import template as template_module
from ftkit.data.alignment import ByteAlignment
from ftkit.errors import TemplateError
from ftkit.recipe import SFT

from .families import FAMILIES

_said = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Co")), max_size=12)
_odd = st.sampled_from(
    ["", " ", "\n\n", " x", "x ", "\U0001f600", "e\u0301", "\u200b", "<|im_end|>", "\u00a0y", "\t"]
)
_text = st.builds("".join, st.lists(_said | _odd, max_size=3))
_templates: dict[str, Template] = {}


def both(template: Template, talk: Conversation) -> tuple[Any, Any]:
    """Encoded among many (without offsets), and by itself (with them)."""
    alone = Template(template.tokenizer)
    alone._finder = template._finder
    return template.encode_many([talk] * template_module._MANY)[0], alone.encode_many([talk])[0]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.lists(st.tuples(_text, _text), min_size=1, max_size=2))
def test_both_ways_give_the_same(starter_tokenizer: Any, family: str, pairs: list[tuple[str, str]]) -> None:
    if family not in _templates:
        _templates[family] = Template(FAMILIES[family].tokenizer(starter_tokenizer))
    turns = [
        Message(role, said) for pair in pairs for role, said in zip(("user", "assistant"), pair, strict=True)
    ]
    many, alone = both(_templates[family], Conversation(tuple(turns)))
    if isinstance(alone, TemplateError):
        assert isinstance(many, TemplateError)
        return
    assert _templates[family]._alignment
    assert many.ids.tolist() == alone.ids.tolist()
    assert many.mask.tolist() == alone.mask.tolist()


def test_ordinary_rows_need_no_offsets(starter_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(template_module, "_tokens_between", refuse)
    talks = [
        Conversation(
            (Message("user", f"Where is \U0001f600 {n}?"), Message("assistant", f"Na\u00efve {n}.")), n
        )
        for n in range(template_module._MANY)
    ]
    found = encode_all(talks, Template(starter_tokenizer), objective=SFT(), max_length=99, too_long="drop")
    for n, row in enumerate(found.rows):
        assert starter_tokenizer.decode(row.ids[row.mask]) == f"Na\u00efve {n}.<|im_end|>"


def test_a_normalizer_that_changes_the_text_is_noticed(starter_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(starter_tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    talk = Conversation(
        (Message("user", "e\u0301" * 3), Message("assistant", "e\u0301 x"), Message("user", "y"))
    )
    many, alone = both(Template(tokenizer), talk)
    assert many.ids.tolist() == alone.ids.tolist()
    assert many.mask.tolist() == alone.mask.tolist()


def test_spans_are_tokens_only_where_that_is_certain(starter_tokenizer: Any) -> None:
    backend = starter_tokenizer.backend_tokenizer
    alignment = ByteAlignment.of(backend)
    assert alignment is not None
    text = "na\u00efve words here"
    ids = backend.encode(text, add_special_tokens=False).ids

    def between(said: str, spans: list[tuple[int, int]], of: str = "") -> Any:
        tokens = backend.encode(of or said, add_special_tokens=False).ids
        return alignment.between(said, tokens, np.array(tokens), spans)

    borders = [0]
    for one in ids:
        borders.append(borders[-1] + len(alignment.pieces[one]))
    assert borders[-1] == len(text.encode())
    assert between(text, [(0, len(text))]) == [(0, len(ids))]
    assert between(text, [(1, 3)]) is None, "inside a token"
    assert between(text + "!", [(0, 3)], of=text) is None, "not its tokens"
    assert between("a\n\nb", [(1, 4)]) is None, "white space at the border"
    backend = copy.deepcopy(backend)
    backend.decoder = decoders.Metaspace()
    assert ByteAlignment.of(backend) is None
