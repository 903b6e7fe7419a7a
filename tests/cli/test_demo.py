from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ftkit.cli import main
from ftkit.cli.demo import make_room
from ftkit.errors import RunError

KEYS = {
    "exact_match_before",
    "exact_match_after",
    "held_out_rows",
    "tokens_per_second",
    "peak_memory_gb",
    "seconds",
    "model_source",
}


def test_the_demo_trains_measures_and_reports_the_same_numbers(
    tmp_path: Path, tiny_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["demo", "--quick", "--offline", "--model", str(tiny_model_folder()), "--folder", str(tmp_path)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / "demo-quick" / "report.json").read_text())
    assert report.keys() >= KEYS
    assert report["held_out_rows"] == 8
    assert report["training_steps"] == 4
    assert 0 < report["training_seconds"] < report["seconds"]
    assert {"seen_form: yes", "seen_form: no"} >= report["by"].keys()

    last = shown.splitlines()[-1]
    line = (
        r"demo: exact_match (\d\.\d\d) -> (\d\.\d\d) on (\d+) held-out rows, "
        r"(\d+) tok/s, peak (\d+\.\d\d) GB, (\d+) s"
    )
    found = re.fullmatch(line, last)
    assert found, last
    assert [float(number) for number in found.groups()] == pytest.approx(
        [
            round(report["exact_match_before"], 2),
            round(report["exact_match_after"], 2),
            report["held_out_rows"],
            round(report["tokens_per_second"]),
            round(report["peak_memory_gb"], 2),
            round(report["seconds"]),
        ]
    )
    assert shown.count("demo: ") == 1

    assert main(words) == 0, "a second demo replaces the first"


def test_only_a_run_of_ftkits_is_ever_removed(tmp_path: Path) -> None:
    precious = tmp_path / "demo" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("mine")
    with pytest.raises(RunError, match="not a run"):
        make_room(precious.parent)
    assert precious.read_text() == "mine"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    for name in ("recipe.yaml", "events.jsonl"):
        (target / name).touch()
    (tmp_path / "demo").symlink_to(target)
    with pytest.raises(RunError, match="not a run's folder"):
        make_room(tmp_path / "demo")
    assert target.is_dir()


def test_an_empty_folder_makes_room(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    make_room(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
