"""What a person gets who installs ftkit, and what a contributor gets from constraints.txt."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs a checkout")


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_every_tracked_file_of_the_package_is_in_the_wheel(wheel_names: set[str]) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "ftkit"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert set(tracked.stdout.split()) <= wheel_names


def test_the_front_end_and_the_starter_sets_are_in_the_wheel(wheel_names: set[str]) -> None:
    sources = {path.relative_to(ROOT / "widgets") for path in (ROOT / "widgets").rglob("*") if path.is_file()}
    assert {f"ftkit/_front/{path.as_posix()}" for path in sources} <= wheel_names
    assert {name.partition("starter/")[2] for name in wheel_names if "data/starter/" in name} >= {
        path.name for path in (ROOT / "ftkit/data/starter").glob("*.jsonl")
    }
    assert "ftkit/_notebooks/lab.ipynb" in wheel_names


def test_the_wheel_holds_the_package_and_nothing_else(wheel_names: set[str]) -> None:
    assert {name.partition("/")[0] for name in wheel_names} == {
        "ftkit",
        f"ftkit-{version('ftkit')}.dist-info",
    }
    assert not [name for name in wheel_names if "__pycache__" in name]


def test_every_dependency_has_a_tested_version_that_pyproject_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # Unsloth caps transformers below the version tested here: an environment holds one or the other.
    wanted = [*project["dependencies"], *extras["lab"], *extras["dev"]]
    pinned = pinned_versions()
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name != "ftkit":
            assert name in pinned, f"{name} is missing in constraints.txt"
            assert requirement.specifier.contains(pinned[name]), requirement


def test_constraints_name_no_index() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+(\.post\d+)?", entry) for entry in entries)


def pinned_versions() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
