"""Long rows are shortened by whole exchanges: no header, answer or EOS is cut, nothing appears twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftkit.data import Conversation, Message, PlainText, Template, encode_all
from ftkit.errors import DataError
from ftkit.recipe import SFT, Pretraining


def talk(count: int, *, system: bool = True, row: int = 0) -> Conversation:
    turns = [Message("system", "Be brief.")] if system else []
    for n in range(count):
        turns += [Message("user", f"question {n} please"), Message("assistant", f"answer {n} indeed")]
    return Conversation(tuple(turns), row)


def texts(tokenizer: Any, found: Any) -> list[str]:
    return [tokenizer.decode(row.ids) for row in found.rows]


@pytest.mark.parametrize(("policy", "kept"), [("keep_end", [4, 5]), ("keep_start", [0, 1])])
def test_whole_exchanges_are_kept(policy: Any, kept: list[int], starter_tokenizer: Any) -> None:
    template = Template(starter_tokenizer)
    limit = len(template.encode(talk(2)).ids)
    found = encode_all([talk(6)], template, objective=SFT(), max_length=limit, too_long=policy)
    assert found.shortened == (0,)
    text = texts(starter_tokenizer, found)[0]
    assert "Be brief." in text
    assert [n for n in range(6) if f"answer {n} indeed" in text] == kept
    trained = starter_tokenizer.decode(found.rows[0].ids[found.rows[0].mask])
    assert trained == "".join(f"answer {n} indeed<|im_end|>" for n in kept)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 9), room=st.integers(1, 4), system=st.booleans())
def test_a_split_row_keeps_every_exchange_once(
    starter_tokenizer: Any, count: int, room: int, system: bool
) -> None:
    template = Template(starter_tokenizer, system_prompt=None if system else "")
    limit = len(template.encode(talk(room, system=system)).ids)
    found = encode_all(
        [talk(count, system=system)], template, objective=SFT(), max_length=limit, too_long="split"
    )
    assert all(len(row.ids) <= limit for row in found.rows)
    trained = "".join(starter_tokenizer.decode(row.ids[row.mask]) for row in found.rows)
    assert trained == "".join(f"answer {n} indeed<|im_end|>" for n in range(count))
    assert not found.refused


def test_an_exchange_that_is_too_long_by_itself_is_refused_and_counted(starter_tokenizer: Any) -> None:
    template = Template(starter_tokenizer)
    long = Conversation((Message("user", "q " * 200), Message("assistant", "a")), 7)
    for policy in ("keep_end", "keep_start", "split"):
        found = encode_all(
            [talk(1), long],
            template,
            objective=SFT(),
            max_length=60,
            too_long=policy,  # type: ignore[arg-type]
        )
        assert [refusal.row for refusal in found.refused] == [7]
        assert "no exchange of it fits into 60" in found.refused[0].reason
    with pytest.raises(DataError, match="Row 7 is too long"):
        encode_all([talk(1), long], template, objective=SFT(), max_length=60, too_long="error")


def test_split_text_holds_every_token_once(starter_tokenizer: Any) -> None:
    template = Template(starter_tokenizer)
    text = PlainText("one two three four five six seven eight nine ten " * 9)
    whole = template.encode(text).ids
    found = encode_all([text], template, objective=Pretraining(), max_length=20, too_long="split")
    joined = np.concatenate([row.ids for row in found.rows])
    assert joined.tolist() == whole[: len(joined)].tolist()
    assert len(whole) - len(joined) <= 1
