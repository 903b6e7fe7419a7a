"""`ftkit import` and `ftkit export`: what each key became, for people and as JSON; exit status and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import ftkit
from ftkit.cli import main

GOOD = """
model_name_or_path: org/name
stage: sft
do_train: true
dataset: poems
learning_rate: 2e-5
tpu_num_cores: 8
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
    for words in ("for: train", "training.learning_rate: 2e-05", "not applicable", "tpu_num_cores", str(out)):
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
    assert set(found["not_applicable"]) == {"tpu_num_cores"}
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


_ASKED = [{"instruction": f"Count to {n}.", "input": "", "output": f"{n}!"} for n in range(12)]
_PAIRS = [{"instruction": f"Count to {n}.", "chosen": f"{n}!", "rejected": "No."} for n in range(12)]
_RATED = [{"instruction": f"Count to {n}.", "output": f"{n}!", "label": n % 2 == 0} for n in range(12)]
_TEXTS = [{"text": f"One counts to {n} and then stops."} for n in range(12)]
_STAGES = {
    "sft": (_ASKED, {}, ""),
    "pt": (_TEXTS, {"columns": {"prompt": "text"}}, ""),
    "dpo": (
        _PAIRS,
        {"ranking": True, "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}},
        "pref_beta: 0.2\npref_loss: sigmoid\n",
    ),
    "kto": (
        _RATED,
        {"columns": {"prompt": "instruction", "response": "output", "kto_tag": "label"}},
        "kto_rejected_weight: 1.5\n",
    ),
}


@pytest.mark.parametrize("stage", _STAGES)
def test_a_file_of_each_stage_trains(
    stage: str, tmp_path: Path, tiny_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows, entry, more = _STAGES[stage]
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows.json").write_text(json.dumps(rows))
    (data / "dataset_info.json").write_text(json.dumps({"counting": {"file_name": "rows.json", **entry}}))
    file = tmp_path / "configs" / "own.yaml"
    file.parent.mkdir()
    file.write_text(
        f"model_name_or_path: {tiny_model_folder()}\nstage: {stage}\ndo_train: true\nfinetuning_type: lora\n"
        f"lora_rank: 4\ndataset: counting\ndataset_dir: data\ncutoff_len: 128\nmax_steps: 2\n"
        f"per_device_train_batch_size: 2\nlearning_rate: 1e-3\nuse_cpu: true\nval_size: 0.25\n"
        f"eval_strategy: steps\neval_steps: 2\nsave_strategy: 'no'\n{more}"
        f"output_dir: {tmp_path / 'saves'}/own\n"
    )
    out = tmp_path / "recipe.yaml"
    assert main(["import", str(file), "--out", str(out)]) == 0
    assert main(["run", str(out), "--set", "compute.offline=true"]) == 0
    run = ftkit.attach(tmp_path / "saves" / "own")
    assert (run.status, run.progress.step) == ("finished", 2)
    assert (run.path / "adapter" / "adapter_model.safetensors").is_file()


def test_a_recipe_goes_there_and_comes_back(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ftkit.Recipe(
        model="org/name",
        method={"type": "lora", "rank": 4},
        objective="dpo",
        training={"learning_rate": 3e-5, "on_bad_loss": "roll_back"},
    )
    recipe.to_yaml(tmp_path / "recipe.yaml")
    there = tmp_path / "there.yaml"
    assert main(["export", str(tmp_path / "recipe.yaml"), "--out", str(there)]) == 0
    assert "training.on_bad_loss" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "recipe.yaml"), "--out", str(there)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    written = yaml.safe_load(there.read_text())
    assert (written["stage"], written["lora_rank"], written["learning_rate"]) == ("dpo", 4, 3e-5)

    (tmp_path / "run").mkdir()
    recipe.to_yaml(tmp_path / "run" / "recipe.yaml")
    assert main(["export", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert printed == there.read_text()
    there.write_text(printed + "dataset: pairs\n")
    back = tmp_path / "back.yaml"
    assert main(["import", str(there), "--out", str(back)]) == 0
    again = ftkit.Recipe.from_yaml(back)
    assert (again.objective, again.method.rank) == (recipe.objective, 4)
    assert again.training.learning_rate == 3e-5


def test_what_is_no_recipe_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "absent.yaml")]) == 1
    assert "absent.yaml" in capsys.readouterr().err
