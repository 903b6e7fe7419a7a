"""Text that comes out piece by piece is the text as a whole, and no piece ends inside a character."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftkit.chat.detokenize import Detokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Callable[..., Path]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_folder())


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    text = Detokenizer(tokenizer)
    return [*(text.add(token) for token in ids), text.flush()]


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_pieces_add_up_to_any_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join(pieces(tokenizer, ids)) == whole


def test_a_character_of_several_tokens_comes_out_whole(tokenizer: Any) -> None:
    ids = tokenizer("a🙂é", add_special_tokens=False)["input_ids"]
    assert len(ids) > 3  # bytes, in this vocabulary
    assert [piece for piece in pieces(tokenizer, ids) if piece] == ["a", "🙂", "é"]


def test_broken_bytes_come_out_at_the_end(tokenizer: Any) -> None:
    ids = tokenizer("🙂", add_special_tokens=False)["input_ids"]
    assert "".join(pieces(tokenizer, ids[:-1])) == "\N{REPLACEMENT CHARACTER}"


def test_special_tokens_give_no_text(tokenizer: Any) -> None:
    assert "".join(pieces(tokenizer, [tokenizer.eos_token_id])) == ""


def test_a_space_at_the_start_of_a_word_is_kept(tokenizer: Any) -> None:
    ids = tokenizer("twice, while it rains.", add_special_tokens=False)["input_ids"]
    assert "".join(pieces(tokenizer, ids)) == "twice, while it rains."
