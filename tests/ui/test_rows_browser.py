"""The rows browser: one page is rendered, whatever the number of rows; search, findings and a way back."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import pytest

from ftkit.data import Conversation, Message, Template, load
from ftkit.recipe import SFT
from ftkit.ui.images import LARGEST, thumbnail
from ftkit.ui.rows import cells
from ftkit.ui.rows_browser import PAGE, TOKENS_SHOWN, RowsBrowser

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
HUGE = PIXEL[:16] + (60_000).to_bytes(4, "big") * 2 + PIXEL[24:]


def rows(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"Question {n}", "completion": f"Answer {n * n}"} for n in range(count)]


def browser(count: int = 23, **settings: Any) -> RowsBrowser:
    made = RowsBrowser()
    made.browse(load(rows(count), **({"held_out_fraction": 0} | settings)), None)
    return made


def found(made: RowsBrowser) -> list[int]:
    return list(made.places)


def ask(made: RowsBrowser, **content: Any) -> None:
    """A message from the page."""
    made.table._handle_custom_msg({"id": "1", **content}, [])


def test_the_keyboard_and_a_click_move() -> None:
    made = browser()
    ask(made, step=1)
    assert made.at == 1
    ask(made, step=PAGE)
    assert (made.at, [row["place"] for row in made.table.rows]) == (6, [5, 6, 7, 8, 9])
    ask(made, step=1000)
    assert (made.at, made.next.disabled) == (22, True)
    ask(made, step=-1000)
    assert (made.at, made.previous.disabled) == (0, True)
    ask(made, place=3)
    assert made.at == 3
    ask(made, place="<b>")
    assert made.at == 3


def test_a_search_leaves_the_rows_that_hold_the_text_and_goes_back() -> None:
    made = browser()
    made.search("answer 4")
    made.wait()
    assert found(made) == [2, 7, 20, 21, 22]
    assert "5 of 23 rows hold" in made.narrowed.value
    assert made.table.find == "answer 4"
    made.next.click()
    assert made.at == 7
    assert made.number.value == 8
    made.all_rows.click()
    assert len(made.places) == 23
    assert made.at == 7
    assert made.search_box.value == ""
    made.search("<img src=x>")
    made.wait()
    assert found(made) == []
    assert "<img" not in made.narrowed.value
    assert made.table.rows == []
    made.search("")
    assert len(made.places) == 23


def test_a_jump_out_of_what_was_found_shows_all_rows_again() -> None:
    made = browser()
    made.only([3, 5], "Odd ones")
    assert found(made) == [3, 5]
    made.number.value = 6
    assert (made.at, found(made)) == (5, [3, 5])
    made.number.value = 12
    assert (made.at, len(made.places)) == (11, 23)


def test_a_finding_names_rows_by_their_number_in_the_source() -> None:
    made = browser(held_out_fraction=0.3)
    numbers = [example.row for example in made.examples]
    made.show(2, "held_out")
    made.only(numbers[4:6], "Odd ones")
    assert (made.part, found(made)) == ("train", [4, 5])
    assert [row["number"] for row in made.table.rows] == numbers[4:6]


def test_a_hundred_thousand_rows_are_not_rendered() -> None:
    many = [
        Conversation((Message("user", f"Question {n}"), Message("assistant", "Answer")), n)
        for n in range(100_000)
    ]
    made = RowsBrowser()
    dataset = load(rows(2), held_out_fraction=0)
    object.__setattr__(dataset, "train", many)
    begun = time.perf_counter()
    made.browse(dataset, None)
    made.show(77_777)
    made.step(1)
    assert time.perf_counter() - begun < 5
    assert len(made.table.rows) == PAGE
    begun = time.perf_counter()
    made.search("question 9999")
    made.wait()
    assert len(made.places) == 11
    assert time.perf_counter() - begun < 60


def test_long_rows_and_many_tokens_stay_light(starter_tokenizer: Any) -> None:
    made = RowsBrowser()
    long = [{"prompt": "q " * count, "completion": "a needle b"} for count in (10_000, 2_000_000)]
    made.browse(load(long, held_out_fraction=0), None)
    template = Template(starter_tokenizer)
    made.as_tokens(template, SFT())
    assert len(made.view.tokens) == TOKENS_SHOWN
    assert made.view.count > 10_000
    assert made.view.trained == len(starter_tokenizer("a needle b")["input_ids"]) + 1
    assert made.view.text == template.render(made.examples[0].messages)
    made.show(1)
    assert made.view.layout.display == "none"
    assert "too long" in made.note.value
    assert len(made.table.rows[0]["asked"]) < 1000


def test_a_row_is_shown_by_its_question_and_its_answer() -> None:
    example = load([{"prompt": "Who?", "completion": "Marlow."}], held_out_fraction=0).train[0]
    shown = cells(example, 0, "row 0")
    assert (shown["asked"], shown["answer"]) == ("Who?", "Marlow.")


def test_a_long_text_is_cut_around_what_was_searched() -> None:
    example = load([{"prompt": "a" * 5000 + " Needle " + "b" * 500, "completion": "c"}], held_out_fraction=0)
    assert "Needle" in cells(example.train[0], 0, "row 0", find="needle")["asked"]


# Images


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("pixel.png", ""),
        ("missing.png", "no such file"),
        ("secret.png", "not an image"),
        ("large.png", "too large to show"),
        ("https://example.org/a.png", "not fetched"),
        ("//example.org/share/a.png", "not fetched"),
        ("file:///etc/passwd", "not fetched"),
        ("data:image/svg+xml;base64,AAAA", "not shown"),
        ("data:image/png;base64,AAAA", ""),
        ("nul\0byte", "outside the data's folder, not shown"),
        ("../pixel.png", "outside the data's folder, not shown"),
        ("link.png", "outside the data's folder, not shown"),
        ("/etc/hostname", "outside the data's folder, not shown"),
        ("huge.png", "too many pixels to show"),
        ("data:image/png;base64," + base64.b64encode(HUGE).decode(), "not shown"),
    ],
)
def test_only_small_local_images_reach_the_page(name: str, note: str, tmp_path: Path) -> None:
    (tmp_path / "pixel.png").write_bytes(PIXEL)
    (tmp_path / "secret.png").write_text("<svg onload=alert(1)>")
    (tmp_path / "large.png").write_bytes(PIXEL + b"\0" * LARGEST)
    (tmp_path / "huge.png").write_bytes(HUGE)
    (tmp_path / "link.png").symlink_to("/etc/hostname")
    shown = thumbnail(name, tmp_path)
    assert shown.get("note", "").endswith(note)
    assert ("src" in shown) == (not note)
    assert shown.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")


def test_a_row_with_images_says_that_it_is_not_trained_on(tmp_path: Path, starter_tokenizer: Any) -> None:
    (tmp_path / "pixel.png").write_bytes(PIXEL)
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A dot."}]
    made = RowsBrowser()
    made.browse(load([{"messages": turns, "images": ["pixel.png"]}], held_out_fraction=0), tmp_path)
    made.as_tokens(Template(starter_tokenizer), SFT())
    assert made.table.rows[0]["images"][0]["src"].startswith("data:image/png")
    assert "it has 1 image: training on text alone" in made.note.value
