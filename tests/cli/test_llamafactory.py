"""`ftkit import`: what each key became, for people and as JSON; exit status and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ftkit
from ftkit.cli import main

GOOD = """
model_name_or_path: org/name
stage: sft
do_train: true
dataset: poems
learning_rate: 2e-5
deepspeed: ds_z3.json
output_dir: saves/poems
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "sft.yaml"
    made.write_text(GOOD)
    return made


def test_it_prints_what_each_key_became_and_writes_the_recipe(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "recipe.yaml"
    assert main(["import", str(file), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    for words in ("for: train", "training.learning_rate: 2e-05", "not applicable", "deepspeed", str(out)):
        assert words in shown
    assert ftkit.Recipe.from_yaml(out).training.learning_rate == 2e-5
    assert main(["import", str(file), "--out", str(out)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["import", str(file), "--out", str(out), "--overwrite"]) == 0


def test_json_has_all_of_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "train"
    assert found["recipe"]["training"]["learning_rate"] == 2e-5
    assert found["mapped"]["learning_rate"] == "training.learning_rate: 2e-05"
    assert set(found["not_applicable"]) == {"deepspeed"}
    assert found["errors"] == []


def test_errors_end_with_status_1_and_name_the_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text(GOOD + "lora_rnk: 8\n")
    out = tmp_path / "recipe.yaml"
    assert main(["import", str(tmp_path / "bad.yaml"), "--out", str(out)]) == 1
    shown = capsys.readouterr()
    assert "lora_rnk" in shown.err
    assert "Did you mean 'lora_rank'?" in shown.err
    assert not out.exists()
    assert main(["import", str(tmp_path / "bad.yaml"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"] is None
    assert found["errors"][0]["keys"] == ["lora_rnk"]
    assert main(["import", str(tmp_path / "absent.yaml")]) == 1


def test_run_says_what_the_file_is(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(file)]) == 1
    shown = capsys.readouterr().err
    assert "LLaMA-Factory" in shown
    assert "ftkit import" in shown
