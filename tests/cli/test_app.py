from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ftkit
from ftkit.cli import main
from ftkit.cli.app import _assignment
from ftkit.errors import RecipeError


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"ftkit {ftkit.__version__}\n"


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("demo", "lab", "run", "chat", "runs"))


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ftkit", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"ftkit {ftkit.__version__}\n"


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'pandas', 'rich', 'pydantic'}"
    code = f"import sys, ftkit.cli; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training.epochs=1", ("training.epochs", 1)),
        ("data.source=a=b.jsonl", ("data.source", "a=b.jsonl")),
        ("training.max_steps=null", ("training.max_steps", None)),
        ("compute.offline=true", ("compute.offline", True)),
        ("method.target_modules=[q_proj, v_proj]", ("method.target_modules", ["q_proj", "v_proj"])),
        ("data.system_prompt=[unclosed", ("data.system_prompt", "[unclosed")),
    ],
)
def test_set_reads_a_value_as_yaml_does(text: str, expected: tuple[str, object]) -> None:
    assert _assignment(text) == expected


def test_set_without_an_equals_sign_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["run", "recipe.yaml", "--set", "training.epochs"])
    assert stopped.value.code == 2
    assert "FIELD=VALUE" in capsys.readouterr().err


def test_an_error_is_its_message_and_advice_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(tmp_path / "absent.yaml")]) == 1
    shown = capsys.readouterr()
    assert "There is no recipe at" in shown.err
    assert "Check the path" in shown.err
    assert "Traceback" not in shown.err + shown.out


def test_debug_lets_the_error_through(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        main(["run", str(tmp_path / "absent.yaml"), "--debug"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("training.learning_rate=abc", "training.learning_rate"),
        ("training.epoch=1", "did you mean 'epochs'?"),
        ("trainin.epochs=1", "no section 'trainin'"),
    ],
)
def test_a_wrong_field_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, expected: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    ftkit.Recipe().to_yaml(recipe)
    assert main(["run", str(recipe), "--set", change]) == 1
    assert expected in capsys.readouterr().err
