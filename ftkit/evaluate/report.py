"""Before beside after: the compact account of what a fine-tune changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftkit.evaluate.exact_match import Evaluation


def before_after(before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """What two evaluations of the same rows say about a fine-tune.

    Returns
    -------
    dict
        `exact_match_before`, `exact_match_after`, `held_out_rows`; `by`: for each group of rows its share
        `before` and `after` and its `rows`; `valid_json` and `fields` (before, after) where the answers are
        JSON; `sample`: one row that shows the change best.

    Raises
    ------
    ValueError
        When they are not over the same rows.
    """
    if [row["row"] for row in before.rows] != [row["row"] for row in after.rows]:
        msg = "before and after are evaluations of different rows"
        raise ValueError(msg)
    report: dict[str, Any] = {
        "exact_match_before": before.score,
        "exact_match_after": after.score,
        "held_out_rows": len(after.rows),
        "by": {
            name: {"before": before.by[name], "after": after.by[name], "rows": after.counts[name]}
            for name in after.by
        },
    }
    if before.json is not None and after.json is not None:
        report["valid_json"] = {"before": before.json.valid_json, "after": after.json.valid_json}
        report["fields"] = {
            name: {"before": before.json.fields[name], "after": share}
            for name, share in after.json.fields.items()
        }
    best = best_sample(before, after)
    if best is not None:
        row = after.rows[best]
        report["sample"] = {
            "prompt": row["prompt"],
            "expected": row["expected"],
            "before": before.rows[best]["got"],
            "after": row["got"],
        }
    return report


def best_sample(before: Evaluation, after: Evaluation) -> int | None:
    """Index of a row that was wrong before and is right now, of an unseen form where there is one."""

    def told(index: int) -> tuple[bool, bool]:
        row = after.rows[index]
        return row["correct"] and not before.rows[index]["correct"], row["extra"].get("seen_form") is False

    return max(range(len(after.rows)), key=told, default=None)


def contains_score(evaluation: Evaluation, column: str = "contains") -> float | None:
    """Share of answers that hold every text of the row's `column`; None when no row has one.

    The starter set *persona* has no single right answer, but each of its rows names what the persona's
    answer must hold: its closing words, and its name where it is asked for.
    """
    texts: list[tuple[Sequence[str], str]] = [
        (row["extra"][column], row["got"]) for row in evaluation.rows if row["extra"].get(column)
    ]
    if not texts:
        return None
    return sum(all(part in got for part in parts) for parts, got in texts) / len(texts)
