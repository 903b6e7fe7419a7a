"""No key or token of the person stands in what ftkit writes or shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftkit import redact as module
from ftkit.errors import DataError
from ftkit.recipe import Recipe
from ftkit.redact import HIDDEN, redact
from ftkit.runs.folder import RunFolder
from ftkit.ui import markup

TOKEN = "correct-horse-battery-7"


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(module, "_known", (-1e9, ()))
    return TOKEN


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "aB3" * 10,
        "sk-" + "abc123" * 5,
        "ghp_" + "a1" * 18,
        "AKIA" + "A1" * 8,
        "AIza" + "a" * 35,
        "-----BEGIN RSA PRIVATE KEY-----\nMIIabc123+/=\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_secret_is_hidden(secret: str) -> None:
    assert redact(f"before {secret} after") == f"before {HIDDEN} after"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://ann:s3cret@host/simple", f"https://{HIDDEN}@host/simple"),
        ("https://host/file?token=s3cret&x=1", f"https://host/file?token={HIDDEN}&x=1"),
        ("Authorization: Bearer abcdef1234567890", f"Authorization: Bearer {HIDDEN}"),
    ],
)
def test_secrets_of_addresses_and_headers_are_hidden(text: str, left: str) -> None:
    assert redact(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "a basic understanding of bearer instruments, at 10:30",
        "step 3 of 10: loss 0.25, https://example.org/a/b?c=d",
        "task-specific-fine-tuning-of-models",
        "mail ann@example.org",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_the_environments_tokens_and_the_hubs_own_are_known(
    token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("kept-by-the-hub-99\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "nothing-secret")
    monkeypatch.setattr(module, "_known", (-1e9, ()))
    told = {"a": [f"x {token}", ("kept-by-the-hub-99", 3)], "b": "nothing-secret"}
    assert redact(told) == {"a": [f"x {HIDDEN}", [HIDDEN, 3]], "b": "nothing-secret"}


def test_events_files_errors_and_panels_hold_no_token(token: str, tmp_path: Path) -> None:
    folder = RunFolder.create(Recipe(output={"folder": tmp_path, "name": "a run"}))
    failure = {"message": f"401 for {token}", "advice": "", "traceback": f"headers={{'x': '{token}'}}"}
    folder.log.append("state", state="failed", detail=None, error=failure)
    folder.log.append("note", level="info", text=token)
    folder.write_json("environment.json", {"argv": ["--token", token]})
    written = "".join(path.read_text() for path in folder.path.rglob("*") if path.is_file())
    assert token not in written
    assert written.count(HIDDEN) == 4
    assert json.loads((folder.path / "environment.json").read_text()) == {"argv": ["--token", HIDDEN]}
    assert token not in str(folder.log.read())
    error = DataError(f"cannot be fetched with {token}", f"not {token}")
    assert token not in f"{error}{error.message}{error.advice}{error.args}"
    assert token not in markup.failure(ValueError(token))
