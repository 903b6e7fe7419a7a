"""Exact match: scores, groups, JSON fields, cancelling, and what cannot be evaluated."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ftkit.data import Conversation, Message, Template
from ftkit.errors import DataError
from ftkit.evaluate import before_after, contains_score, exact_match, field_scores
from ftkit.evaluate.generate import greedy_replies
from ftkit.evaluate.report import best_sample
from ftkit.models import LoadedModel


def row(number: int, question: str, answer: str, **extra: Any) -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), row=number, extra=extra)


@pytest.fixture
def rows(loaded: LoadedModel) -> list[Conversation]:
    """Four rows, of which the adapted model answers the first two as expected."""

    def says(question: str) -> str:
        prompt = Template(loaded.tokenizer).prompt_ids([Message("user", question)])
        ((_, ids),) = greedy_replies(loaded, [prompt], max_new_tokens=8)
        return str(loaded.tokenizer.decode(ids, skip_special_tokens=True))

    questions = ["Anna needs lamps", "Lisbon", "by Monday", "the quick brown fox"]
    answers = [says(questions[0]) + " \n", says(questions[1]), "something else", ""]
    return [
        row(n, q, a, seen_form=n in (0, 2), form=f"t{n}", words=[n])
        for n, (q, a) in enumerate(zip(questions, answers, strict=True))
    ]


def test_the_score_is_the_share_of_exact_answers(loaded: LoadedModel, rows: list[Conversation]) -> None:
    result = exact_match(loaded, rows, max_new_tokens=8, batch_size=3)
    assert result.score == 0.5
    assert [found["correct"] for found in result.rows] == [True, True, False, False]
    assert [found["row"] for found in result.rows] == [0, 1, 2, 3]
    assert result.rows[2]["prompt"] == "by Monday"
    assert result.rows[2]["expected"] == "something else"
    assert result.rows[2]["extra"] == {"seen_form": True, "form": "t2", "words": [2]}
    assert result.json is None
    assert result.complete


def test_groups_are_columns_of_few_values(loaded: LoadedModel, rows: list[Conversation]) -> None:
    result = exact_match(loaded, rows[:3], max_new_tokens=8, by=None)
    assert result.by["seen_form: yes"] == 0.5
    assert result.by["seen_form: no"] == 1.0
    assert result.counts["seen_form: yes"] == 2
    asked = exact_match(loaded, rows, max_new_tokens=8, by=["form"])
    assert asked.by == {"form: t3": 0.0, "form: t2": 0.0, "form: t1": 1.0, "form: t0": 1.0}


def test_base_and_adapter_are_scored_apart(loaded: LoadedModel, rows: list[Conversation]) -> None:
    base = exact_match(loaded, rows, which="base", max_new_tokens=8)
    adapter = exact_match(loaded, rows, which="adapter", max_new_tokens=8)
    assert base.score < adapter.score


def test_cancelling_keeps_the_rows_that_are_done(loaded: LoadedModel, rows: list[Conversation]) -> None:
    cancelled = threading.Event()
    result = exact_match(
        loaded,
        rows,
        max_new_tokens=4,
        batch_size=2,
        cancelled=cancelled,
        progress=lambda *_: cancelled.set(),
    )
    assert len(result.rows) == 2
    assert not result.complete


def test_rows_without_an_answer_are_refused(loaded: LoadedModel) -> None:
    unanswered = Conversation((Message("user", "Hello"),), row=7, extra={})
    with pytest.raises(DataError, match="Row 7 does not end with an assistant's answer"):
        exact_match(loaded, [unanswered])
    with pytest.raises(DataError, match="no rows"):
        exact_match(loaded, [])


def test_json_answers_are_scored_by_field() -> None:
    expected = ['{"name":"Anna","quantity":4}', '{"name":"Ben","quantity":1}', '{"name":"Cy"}']
    got = ['{"quantity": 4, "name": "Ann"}', '{"name":"Ben","quantity":true}', "not json"]
    scores = field_scores(expected, got)
    assert scores is not None
    assert scores.valid_json == pytest.approx(2 / 3)
    assert scores.fields == {"name": pytest.approx(1 / 3), "quantity": 0.5}
    assert field_scores(["plain"], ["plain"]) is None
    assert field_scores([], []) is None


def test_the_report_sets_before_beside_after(loaded: LoadedModel, rows: list[Conversation]) -> None:
    before = exact_match(loaded, rows, which="base", max_new_tokens=8)
    after = exact_match(loaded, rows, max_new_tokens=8)
    report = before_after(before, after)
    assert report["exact_match_before"] == before.score
    assert report["exact_match_after"] == 0.5
    assert report["held_out_rows"] == 4
    assert report["by"]["seen_form: no"] == {
        "before": before.by["seen_form: no"],
        "after": 0.5,
        "rows": 2,
    }
    assert best_sample(before, after) == 1  # right now, wrong before, of an unseen form
    assert report["sample"]["prompt"] == "Lisbon"
    with pytest.raises(ValueError, match="different rows"):
        before_after(before, exact_match(loaded, rows[:2], max_new_tokens=8))


def test_contains_scores_what_a_persona_must_say(loaded: LoadedModel, rows: list[Conversation]) -> None:
    marked = [
        row(0, "Anna needs lamps", "x", contains=[rows[0].messages[-1].content.strip()[:3]]),
        row(1, "Lisbon", "x", contains=["\N{SNOWMAN}"]),
    ]
    assert contains_score(exact_match(loaded, marked, max_new_tokens=8)) == 0.5
    assert contains_score(exact_match(loaded, rows[:1], max_new_tokens=8)) is None
