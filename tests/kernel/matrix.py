"""The kernel-facing tests on several Pythons and releases of ipykernel, each in an environment of its own.

    python -m tests.kernel.matrix [3.12:7.3.0 ...]

The environments lie in `.venv-matrix/` and are made anew when the dependencies have changed. They hold no
torch, whose build for every Python would be gigabytes: these tests need none. A Python that is not on this
machine is skipped, and said.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-matrix"
COMBINATIONS = ("3.11:6.31.0", "3.12:7.3.0", "3.13:7.4.0")
WITHOUT = {"torch", "accelerate", "peft", "transformers", "gguf"}
"""What the environments do without: torch, and what is of no use without it."""
TESTS = ("pytest", "pytest-timeout", "jupyter-client")


def interpreter_of(python: str) -> str | None:
    """A Python of this version: on the path, or among those that pyenv keeps."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{python}"), *map(str, sorted(pyenv.glob(f"{python}.*/bin/python")))]
    for one in filter(None, candidates):
        if subprocess.run([one, "-c", ""], capture_output=True, check=False).returncode == 0:
            return one
    return None


def environment(python: str, ipykernel: str) -> Path | str:
    """The interpreter of an environment, made where it is not there yet; or why it cannot be."""
    found = interpreter_of(python)
    if found is None:
        return f"there is no Python {python} on this machine"
    folder = FOLDER / f"{python}-{ipykernel}"
    interpreter, made = folder / "bin" / "python", folder / ".made"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [one for one in project["dependencies"] if re.split(r"[^\w-]", one)[0] not in WITHOUT]
    if made.exists() and made.read_text() == "\n".join(needed):
        return interpreter
    pins = FOLDER / "constraints.txt"
    FOLDER.mkdir(exist_ok=True)
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins.write_text("\n".join(line for line in lines if not line.startswith("ipykernel")) + "\n")
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [found, "-m", "venv", "--clear", str(folder)],
        [*pip, "-c", str(pins), f"ipykernel=={ipykernel}", *needed, *TESTS],
        [*pip, "--no-deps", "-e", str(ROOT)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"its environment cannot be made: {done.stderr.strip()[-500:]}"
    made.write_text("\n".join(needed))
    return interpreter


def main() -> int:
    """Run the tests in each environment; the exit status says whether any failed."""
    failed = 0
    for combination in sys.argv[1:] or COMBINATIONS:
        python, _, ipykernel = combination.partition(":")
        interpreter = environment(python, ipykernel)
        if isinstance(interpreter, str):
            print(f"matrix: Python {python}, ipykernel {ipykernel}: skipped, {interpreter}", flush=True)
            continue
        done = subprocess.run(
            [interpreter, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider", "tests/kernel"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        closing = (done.stdout.strip().splitlines() or ["no output"])[-1]
        print(f"matrix: Python {python}, ipykernel {ipykernel}: {closing}", flush=True)
        if done.returncode:
            failed += 1
            print(done.stdout[-6000:] + done.stderr[-2000:])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
