"""A fine-tune with `compute.offline` asks for no address and opens no connection."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TRAIN = """
import sys

reached = []

def record(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        reached.append((event, str(arguments)[:200]))
    elif event == "socket.connect" and isinstance(arguments[1], tuple):  # not one of files
        reached.append((event, str(arguments[1])))

sys.addaudithook(record)
import ftkit

run = ftkit.start(ftkit.Recipe(
    model={model!r},
    data={{
        "source": "starter:extract", "max_rows": 24, "eval_rows": 2, "max_length": 400,
        "template": {template!r},
    }},
    method={{"rank": 2}},
    training={{"max_steps": 2, "batch_size": 2, "evals": 1, "checkpoints": 1}},
    compute={{"offline": True, "device": "cpu"}},
    output={{"folder": {folder!r}}},
))
run.wait()
assert run.progress.step == 2, run.progress
from ftkit.chat import ChatSession, Sampling
reply = ChatSession(run, sampling=Sampling(max_new_tokens=8)).send("Hello", mode="adapter")
assert reply["adapter"].tokens > 0
print("reached:", reached)
"""


def _train(model: str, template: str | None, folder: Path) -> str:
    code = TRAIN.format(model=model, template=template, folder=str(folder))
    open_to_all = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=open_to_all,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


def test_a_local_model_is_trained_and_talked_to_without_a_connection(
    tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    assert _train(str(tiny_model_folder()), None, tmp_path) == "reached: []"


@pytest.mark.slow
def test_the_starter_model_is_trained_and_talked_to_without_a_connection(
    starter_tokenizer: object, tmp_path: Path
) -> None:
    assert _train("starter", None, tmp_path) == "reached: []"
