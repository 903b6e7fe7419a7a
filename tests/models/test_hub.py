"""Fetching from a Hub: a server on this machine speaks as much of its protocol as the library asks for."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftkit.errors import ModelError
from ftkit.models import hub, resolve
from ftkit.recipe import Model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    """`fake_hub.models[repo] = folder` is served; `fake_hub.errors[repo]` is the answer instead."""
    models: dict[str, Path] = {}
    errors: dict[str, str] = {}
    searches: list[dict] = []
    found: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path, _, asked = self.path.partition("?")
            if path == "/api/models":
                searches.append(urllib.parse.parse_qs(asked))
                return self._reply(200, json.dumps(found).encode())
            if path.startswith("/api/models/"):
                repo, _, rest = path.removeprefix("/api/models/").partition("/revision/")
                tree = repo.partition("/tree/")
                if tree[1]:
                    return self._tree(tree[0])
                return self._info(repo.removesuffix("/revision"), rest)
            for repo, folder in models.items():
                start = f"/{repo}/resolve/"
                if path.startswith(start):
                    return self._file(folder / path.removeprefix(start).partition("/")[2])
            return self._reply(200, b"")

        def _info(self, repo, revision):
            if repo in errors:
                code = 403 if errors[repo] == "GatedRepo" else 404
                return self._reply(code, b"{}", {"X-Error-Code": errors[repo]})
            if repo not in models:
                return self._reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            files = [{"rfilename": file.name} for file in sorted(models[repo].iterdir())]
            body = {
                "id": repo,
                "modelId": repo,
                "sha": COMMIT,
                "siblings": files,
                "tags": [],
                "private": False,
            }
            return self._reply(200, json.dumps(body).encode())

        def _tree(self, repo):
            files = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in sorted(models[repo].iterdir())
            ]
            return self._reply(200, json.dumps(files).encode())

        def _file(self, file):
            if not file.is_file():
                return self._reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            data = file.read_bytes()
            etag = hashlib.sha256(data).hexdigest()
            return self._reply(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

        def _reply(self, code, body, extra=None):
            self.send_response(code)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(extra or {})}
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    from huggingface_hub import constants, hf_api

    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(hf_api.api, "endpoint", address)
    monkeypatch.setattr(hub, "_reach", {})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield SimpleNamespace(models=models, errors=errors, searches=searches, found=found)
    server.shutdown()
    server.server_close()


def test_a_model_is_fetched_once_with_progress(fake_hub, tiny_model_folder):
    fake_hub.models["org/tiny"] = tiny_model_folder()
    told: list[tuple[str, float | None]] = []
    found = resolve(Model(source="org/tiny"), progress=lambda *now: told.append(now))
    assert found.kind == "hub"
    assert found.revision == COMMIT
    assert found.describe() == "org/tiny from the Hub at 01234567"
    assert (found.path / "model.safetensors").read_bytes() == (
        tiny_model_folder() / "model.safetensors"
    ).read_bytes()
    assert any(text.startswith("Downloading org/tiny") and fraction is not None for text, fraction in told)
    again = resolve(Model(source="org/tiny"), offline=True)
    assert again.path == found.path


def test_a_cancelled_download_stops(fake_hub, tiny_model_folder):
    fake_hub.models["org/tiny"] = tiny_model_folder()

    def cancel(text, fraction):
        if text.startswith("Downloading"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve(Model(source="org/tiny"), progress=cancel)


def test_pickled_weights_are_refused_before_they_are_fetched(fake_hub, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_text("x")
    fake_hub.models["org/pickled"] = folder
    with pytest.raises(ModelError, match="pickled files only"):
        resolve(Model(source="org/pickled"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("GatedRepo", "accept its terms"),
        ("RepoNotFound", "has no model"),
        ("RevisionNotFound", "no revision"),
    ],
)
def test_refusals_of_the_hub_are_put_in_words(fake_hub, code, message):
    fake_hub.errors["org/other"] = code
    with pytest.raises(ModelError, match=message):
        resolve(Model(source="org/other", revision="v9"))


def test_the_configuration_alone_is_enough_for_an_estimate(fake_hub, tiny_model_folder):
    from ftkit.models.estimate import find_architecture

    fake_hub.models["org/tiny"] = tiny_model_folder()
    found = find_architecture(Model(source="org/tiny"))
    assert found is not None
    assert found.hidden_size == 32
    assert hub.cached("org/tiny", None) is None


def test_a_search_asks_for_what_ftkit_can_load(fake_hub):
    fake_hub.found.append(
        {
            "id": "org/one",
            "downloads": 7,
            "gated": "manual",
            "safetensors": {"total": 1_500_000_000, "parameters": {}},
        }
    )
    fake_hub.found.append({"id": "org/two"})
    one, two = hub.search("qwen", lambda *_: None, limit=5)
    assert (one.source, one.downloads, one.gated, one.parameters) == ("org/one", 7, True, 1500)
    assert (two.source, two.downloads, two.gated, two.parameters) == ("org/two", 0, False, None)
    (asked,) = fake_hub.searches
    assert asked["search"] == ["qwen"]
    assert asked["limit"] == ["5"]
    assert {"text-generation", "safetensors"} <= {*asked["filter"], *asked.get("pipeline_tag", [])}


def test_a_search_is_cancelled_before_it_asks(fake_hub):
    def cancel(text, fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.search("qwen", cancel)
    assert fake_hub.searches == []


def test_offline_nothing_is_asked(fake_hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="offline"):
        hub.search("qwen", lambda *_: None)
    assert fake_hub.searches == []


def test_a_hub_out_of_reach_is_said_to_be(fake_hub, monkeypatch):
    monkeypatch.setattr(hub, "_answers", lambda _: False)
    with pytest.raises(ModelError, match="cannot be reached"):
        hub.search("qwen", lambda *_: None)
