# ruff: noqa: E501  lists of names read best on long lines
"""What is fuzzed: for each target what to give it, and what ftkit does with that. A new one is one more entry."""

from __future__ import annotations

import functools
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st
from pydantic import ValidationError

from ftkit.errors import FtkitError

EXPECTED = (FtkitError, ValidationError)
"""What bad input may raise."""


@dataclass(frozen=True)
class Target:
    """Something that reads what strangers wrote.

    Attributes
    ----------
    name
        What the counts call it.
    inputs
        A hypothesis strategy of inputs.
    read
        Reads one; may raise what is EXPECTED, nothing else.
    of_bytes
        An input made of bytes, for a fuzzer that knows no strategies.
    share
        How large a part of all cases it gets, beside the others' shares.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], Any]
    of_bytes: Callable[[bytes], Any] = bytes
    share: int = 10

    def __call__(self, value: Any) -> bool:
        """Read one input; whether it was taken (False: refused with an error of ftkit's)."""
        try:
            self.read(value)
        except EXPECTED:
            return False
        return True


def _as_text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@functools.cache
def _work() -> Path:
    return Path(tempfile.mkdtemp(prefix="ftkit-fuzz-"))


# Values

_TEXTS = st.text(max_size=40) | st.sampled_from(
    [
        "",
        "\0",
        "\ud800",
        "../x",
        "/etc/passwd",
        "~nobody/x",
        "a" * 300,
        "[" * 5000,
        "<b>",
        "{{x}}",
        "CON",
        "starter:extract",
    ]
)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | _TEXTS
    | st.sampled_from([10**400, -1, 0, 1, 2**63])
)


def _values(keys: st.SearchStrategy[str], leaves: int = 12) -> st.SearchStrategy[Any]:
    return st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=leaves,
    )


@st.composite
def _mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A good file with some of its bytes changed, left out, doubled or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.integers(0, 4)):
            case 0 if data:
                data[at] = draw(st.integers(0, 255))
            case 1:
                del data[at : at + draw(st.integers(1, 30))]
            case 2:
                data[at:at] = draw(st.binary(max_size=20))
            case 3:
                data[at:at] = data[at : at + draw(st.integers(1, 60))]
            case _:
                del data[at:]
    return bytes(data)


# Recipes


def _recipe_fields() -> list[str]:
    from ftkit.recipe import Compute, Data, LoRA, Model, Output, Recipe, Training

    sections = (Recipe, Model, Data, LoRA, Training, Compute, Output)
    return sorted({name for section in sections for name in section.model_fields} | {"type", "self", "1"})


@functools.cache
def _recipe_text() -> bytes:
    from ftkit.recipe import Recipe

    return Recipe().to_yaml().encode()


def _recipe(text: str) -> None:
    from ftkit.recipe import Recipe

    recipe = Recipe.from_yaml(f"{text}\n")
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    compile(recipe.to_python(), "recipe", "exec")


def _yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, allow_unicode=True)


def _recipes() -> st.SearchStrategy[str]:
    fields = st.sampled_from(_recipe_fields())
    sections = st.dictionaries(
        fields, _values(fields) | st.dictionaries(fields, _SCALARS, max_size=4), max_size=4
    )
    texts = _mutated((_recipe_text(),)).map(_as_text)
    return sections.map(_yaml) | texts | st.text(max_size=60)


def _import(text: str) -> None:
    from ftkit.recipe.llamafactory import loads

    found = loads(text, folder=_work())
    json.dumps(str(found), ensure_ascii=False)


def _llama_factory() -> st.SearchStrategy[str]:
    import yaml

    import ftkit.recipe.llamafactory as package

    keys = yaml.safe_load(Path(package.__file__).with_name("keys.yaml").read_text(encoding="utf-8"))
    names = st.sampled_from(sorted({str(name) for section in keys.values() for name in section}))
    good = {
        "model_name_or_path": "org/name",
        "stage": "sft",
        "finetuning_type": "lora",
        "dataset": "alpaca",
        "template": "llama3",
        "lora_rank": 8,
        "learning_rate": 1e-4,
        "output_dir": "out",
    }
    changed = st.dictionaries(names, _SCALARS | _values(names, 4), max_size=6).map(
        lambda some: _yaml({**good, **some})
    )
    return changed | _mutated((_yaml(good).encode(),)).map(_as_text)


# Datasets

_ROWS = [
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {
        "messages": [{"role": "user", "content": "q\n<image>"}, {"role": "assistant", "content": "a"}],
        "images": ["x.png"],
    },
]
_TURNS = _ROWS[0]["messages"]
_FLAT = [{"instruction": "q", "input": "", "output": f"a{n}"} for n in range(3)]
_COLUMNS = st.sampled_from(
    [
        *("messages", "role", "content", "tool_calls", "function", "name", "arguments", "from", "value"),
        *("conversations", "instruction", "input", "output", "system", "history", "tools", "images", "text"),
        *("prompt", "completion", "chosen", "rejected", "rating", "label", "tokens", "tags", "question"),
        *("answers", "answer_start", "context", "kto_tag", "weight", "id", "type", "answer"),
    ]
)


@functools.cache
def _table(kind: str) -> bytes:
    table = pyarrow.Table.from_pylist([*_FLAT, {"instruction": "q", "input": "x" * 50, "output": "b"}])
    file = io.BytesIO()
    if kind == "parquet":
        pyarrow.parquet.write_table(table, file)
    else:
        new = pyarrow.ipc.new_file if kind == "arrow" else pyarrow.ipc.new_stream
        with new(file, table.schema) as writer:
            writer.write_table(table)
    return file.getvalue()


def _load(data: bytes, suffix: str) -> None:
    from ftkit.data import load
    from ftkit.ui.rows import cells, counts_line, refused_list

    path = _work() / f"rows{suffix}"
    path.write_bytes(data)
    dataset = load(path, offline=True, held_out_fraction=0.2)
    shown = [cells(one, place, dataset.where(one.row), _work()) for place, one in enumerate(dataset.train)]
    json.dumps([shown, counts_line(dataset, None), refused_list(dataset)], ensure_ascii=False).encode()


def _json_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _jsonl() -> st.SearchStrategy[bytes]:
    seeds = (_json_lines(_ROWS), _json_lines(_FLAT))
    rows = st.lists(st.dictionaries(_COLUMNS, _values(_COLUMNS), max_size=4), min_size=1, max_size=4)
    return _mutated(seeds) | _talks().map(_json_lines) | rows.map(_json_lines) | st.binary(max_size=80)


def _json() -> st.SearchStrategy[bytes]:
    seeds = (json.dumps(_ROWS).encode(), json.dumps({"data": _FLAT}, indent=1).encode())
    lists = _talks() | _values(_COLUMNS)
    return _mutated(seeds) | lists.map(lambda value: json.dumps(value).encode())


def _csv() -> st.SearchStrategy[bytes]:
    seeds = (b'prompt,completion\nq,a\n"q ""x""\ny",b\n', "prompt\tcompletion\nq\ta\n".encode("utf-16"))
    cells = st.lists(st.lists(_TEXTS, min_size=1, max_size=3), min_size=1, max_size=4)
    lines = cells.map(lambda rows: "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass"))
    return _mutated(seeds) | lines | st.binary(max_size=80)


def _packed() -> st.SearchStrategy[bytes]:
    return _mutated((gzip.compress(_json_lines(_FLAT)),))


def _talks() -> st.SearchStrategy[list[Any]]:
    """Rows as they should be, with other values here and there."""
    roles = st.sampled_from(["user", "assistant", "system", "tool"]) | _TEXTS
    turn = st.fixed_dictionaries({"role": roles, "content": _TEXTS}) | st.fixed_dictionaries(
        {"role": roles, "content": _values(_COLUMNS, 4), "tool_calls": _values(_COLUMNS, 6)}
    )
    turns = st.lists(turn, max_size=4).map(lambda some: [*_TURNS, *some])
    row = st.fixed_dictionaries(
        {"messages": turns}, optional={"images": _values(_COLUMNS, 3), "tools": _TEXTS}
    )
    flat = st.fixed_dictionaries(
        {"instruction": _TEXTS, "output": _TEXTS}, optional={"input": _values(_COLUMNS, 3)}
    )
    return st.lists(row, min_size=1, max_size=3) | st.lists(flat, min_size=1, max_size=3)


# Listings


def _listing(value: Any) -> None:
    from ftkit.data import load

    folder = _work() / "listed"
    folder.mkdir(exist_ok=True)
    (folder / "rows.json").write_text(json.dumps(_FLAT))
    (folder / "dataset_info.json").write_bytes(value)
    load(folder, offline=True)


def _listings() -> st.SearchStrategy[bytes]:
    keys = st.sampled_from(
        [
            *("file_name", "hf_hub_url", "formatting", "ranking", "subset", "split", "folder", "num_samples"),
            *("columns", "tags", "prompt", "query", "response", "history", "messages", "system", "tools"),
            *(
                "images",
                "chosen",
                "rejected",
                "kto_tag",
                "role_tag",
                "content_tag",
                "user_tag",
                "cloud_file_name",
            ),
        ]
    )
    named = st.sampled_from(["rows.json", "alpaca", "sharegpt", "openai", "instruction", "output"])
    entry = st.dictionaries(keys, named | _values(keys, 5), max_size=6).map(
        lambda one: {"file_name": "rows.json", **one}
    )
    seeds = (json.dumps({"a": {"file_name": "rows.json", "columns": {"prompt": "instruction"}}}).encode(),)
    listed = st.dictionaries(_TEXTS, entry, max_size=2) | _values(keys)
    return listed.map(lambda value: json.dumps(value).encode()) | _mutated(seeds)


# Rows of the kernel, rendered and tokenised


@functools.cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: number for number, word in enumerate([*alphabet, "<|im_start|>", "<|im_end|>"])}
    backend = Tokenizer(models.BPE(vocab=words, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )


def _rows(rows: list[Any]) -> None:
    from ftkit.data import Template, load
    from ftkit.data.encode import encode_each
    from ftkit.data.preflight import preflight
    from ftkit.recipe import SFT

    dataset = load(rows, held_out_fraction=0)
    chat = Template(_tokenizer(), template="chatml")
    found = encode_each(dataset.train, chat, SFT(), lambda text, fraction: None)
    preflight(dataset.train, (), found.rows)


# Chat templates

_PIECES = st.sampled_from(
    [
        *(
            "{% for m in messages %}",
            "{% endfor %}",
            "{{ m.role }}",
            "{{ m.content }}",
            "{{ messages }}",
            "text\n",
        ),
        *(
            "{% if m.role == 'user' %}",
            "{% else %}",
            "{% endif %}",
            "{% set x = m.content %}",
            "{{ x * 9999999 }}",
        ),
        *(
            "{{ x ~ x }}",
            "{% set n = namespace(a='x') %}",
            "{% set n.a = n.a ~ n.a ~ m.content %}",
            "{{ n.a|length }}",
        ),
        *(
            "{% for i in range(99999) %}",
            "{{ m|tojson(indent=4) }}",
            "{{ raise_exception('no') }}",
            "{{ tools }}",
        ),
        *(
            "{% macro f(a) %}",
            "{% endmacro %}",
            "{{ f(f) }}",
            "{{ m['content'][::-1] }}",
            "{{ loop.length }}",
        ),
        *(
            "{% generation %}",
            "{% endgeneration %}",
            "{{ '%s' % m }}",
            "{{ m.content.split('a') }}",
            "{{ 1 / 0 }}",
        ),
        *(
            "{{ ''.__class__ }}",
            "{{ m.content|replace('a', m.content) }}",
            "{{ strftime_now('%Y') }}",
            "{% break %}",
        ),
        *(
            "{{ [m, m]|join(m) }}",
            "{{ 10 ** 99 }}",
            "{% set y %}",
            "{% endset %}",
            "{{ cycler(1).next() }}",
            "{{",
        ),
        *(
            "{{ bos_token }}",
            "{% if add_generation_prompt %}",
            "{{ messages|map('upper')|list }}",
            "{% include 'x' %}",
        ),
    ]
)


def _templates() -> st.SearchStrategy[str]:
    pieces = st.lists(_PIECES, max_size=8).map("".join)
    few = st.lists(_PIECES, max_size=2).map("".join)
    loop = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    around = st.tuples(few, few, few).map(
        lambda some: some[0] + loop.replace("{% endfor %}", some[1] + "{% endfor %}") + some[2]
    )
    return pieces | around


def _template(source: str) -> None:
    import copy

    from ftkit.data import Conversation, Message, Template, sandbox

    sandbox.SECONDS, sandbox.BUDGET = 0.2, 1_000_000
    tokenizer = copy.copy(_tokenizer())
    tokenizer.chat_template = source
    chat = Template(tokenizer)
    talk = Conversation((Message("user", "ab"), Message("assistant", "cab")))
    try:
        chat.render(talk.messages, add_generation_prompt=True)
        chat.encode(talk)
    finally:
        sandbox.compiled.cache_clear()


# Run folders


def _run(files: dict[str, bytes]) -> None:
    import shutil

    from ftkit.runs import Run, list_runs
    from ftkit.runs.folder import RunFolder
    from ftkit.ui import _run_view
    from ftkit.ui._history import History

    shutil.rmtree(_work() / "runs", ignore_errors=True)
    folder = _work() / "runs" / "one"
    (folder / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    list_runs(folder.parent)
    run = Run(RunFolder.open(folder))
    status, progress = run.status, run.progress
    history = History(run)
    history.read()
    shown = [
        _run_view.head(run.name, str(run.path), status, progress),
        _run_view.tiles(history, progress),
        _run_view.remarks(list(history.notes)),
        _run_view.outcome(run, status),
    ]
    json.dumps(shown, ensure_ascii=False).encode()
    repr([run, run.metrics, run.facts, run.loss, run.eval_loss, run.error, run.events()])
    run._folder.last_checkpoint()


_EVENTS = [
    {"time": 1.0, "kind": "state", "state": "running", "detail": None, "error": None},
    {"time": 1.0, "kind": "stage", "text": "Training", "fraction": 0.5},
    {"time": 1.0, "kind": "steps", "step": 0, "total_steps": 10},
    {"time": 2.0, "kind": "train", "step": 1, "epoch": 0.1, "loss": 2.0, "learning_rate": 1e-4, "elapsed": 1.0},
    {"time": 2.5, "kind": "eval", "step": 1, "epoch": 0.1, "loss": 2.0, "accuracy": 0.1, "seconds": 0.2},
    {"time": 3.0, "kind": "note", "level": "warning", "text": "careful"},
    {"time": 3.0, "kind": "checkpoint", "step": 1, "path": "checkpoints/checkpoint-1"},
    {"time": 3.0, "kind": "environment", "facts": {"device": "cpu"}},
    {"time": 3.0, "kind": "plan", "train_rows": 3, "refused": []},
    {"time": 4.0, "kind": "state", "state": "failed", "detail": None, "error": {"message": "m", "advice": "", "traceback": ""}},
]  # fmt: skip


@st.composite
def _events(draw: st.DrawFn) -> dict[str, bytes]:
    """A run whose events have other values than they should, or whose file is damaged."""
    keys = st.sampled_from(sorted({key for event in _EVENTS for key in event} | {"message", "advice"}))
    events: list[Any] = []
    for event in draw(st.lists(st.sampled_from(_EVENTS), max_size=6)):
        changed = {**event, **draw(st.dictionaries(keys, _values(keys, 4), max_size=2))}
        for key in draw(st.lists(keys, max_size=1)):
            changed.pop(key, None)
        events.append(changed)
    data = _json_lines(events)
    if draw(st.booleans()):
        data = draw(_mutated((data + b" ",)))
    return {"events.jsonl": data, "recipe.yaml": _recipe_text()}


@st.composite
def _folders(draw: st.DrawFn) -> dict[str, bytes]:
    """A run whose other files are damaged."""
    return {
        "events.jsonl": _json_lines(_EVENTS),
        "recipe.yaml": draw(_mutated((_recipe_text(),))),
        "process.json": draw(_mutated((b'{"pid": 1, "started": 3.5}',)) | st.binary(max_size=30)),
        "wish": draw(_mutated((b"stop",))),
        "environment.json": draw(st.binary(max_size=20)),
    }


# Images, names, texts

_PNG = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDATx\x9cc````\xf8\x0f\0"
    b"\1\4\1\0}\xb2\x96\x95\0\0\0\0IEND\xaeB`\x82"
)
_IMAGES = (
    _PNG,
    b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0\xff\xd9",
    b"GIF89a\1\0\1\0\0\0\0;",
    b"RIFF\x1a\0\0\0WEBPVP8L\r\0\0\0/\0\0\0\x10\x07\x10\x11\x11\x88\x88\xfe\x07\0",
)


def _image(data: bytes) -> None:
    import base64

    from ftkit.ui.images import thumbnail

    (_work() / "image").write_bytes(data)
    addresses = ["image", _as_text(data), f"data:image/png;base64,{base64.b64encode(data).decode()}"]
    for address in addresses:
        found = thumbnail(address, _work())
        assert ("src" in found) != ("note" in found)


def _name(text: str) -> None:
    from ftkit.redact import redact
    from ftkit.ui.receiving import safe_name

    redact(text)
    for name in (text, f"{text}.jsonl"):
        try:
            kept = safe_name(name)
        except FtkitError:
            continue
        assert (_work() / kept).parent == _work()
        (_work() / kept).write_bytes(b"")
        (_work() / kept).unlink()


TARGETS = (
    Target("recipe", _recipes(), _recipe, _as_text, share=20),
    Target("llama_factory", _llama_factory(), _import, _as_text, share=10),
    Target("jsonl", _jsonl(), lambda data: _load(data, ".jsonl"), share=15),
    Target("json", _json(), lambda data: _load(data, ".json"), share=10),
    Target("csv", _csv(), lambda data: _load(data, ".csv"), share=10),
    Target("parquet", _mutated((_table("parquet"),)), lambda data: _load(data, ".parquet"), share=5),
    Target(
        "arrow", _mutated((_table("arrow"), _table("stream"))), lambda data: _load(data, ".arrow"), share=5
    ),
    Target("gzip", _packed(), lambda data: _load(data, ".jsonl.gz"), share=3),
    Target("rows", _talks() | st.lists(_values(_COLUMNS), max_size=4), _rows, json.loads, share=5),
    Target("dataset_info", _listings(), _listing, share=10),
    Target("events", _events(), _run, lambda data: {"events.jsonl": data, "recipe.yaml": b""}, share=10),
    Target("run folder", _folders(), _run, lambda data: {"events.jsonl": b"", "recipe.yaml": data}, share=3),
    Target("template", _templates(), _template, _as_text, share=10),
    Target("image", _mutated(_IMAGES) | st.binary(max_size=60), _image, share=8),
    Target("name", st.text(max_size=300) | _TEXTS, _name, _as_text, share=6),
)
