"""The teacher: the same vocabulary or a refusal that names both, before a model is loaded; only read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ftkit.models.teacher as module
from ftkit.errors import ModelError
from ftkit.models import estimate
from ftkit.models.teacher import check_teacher, load_teacher, teacher_of
from ftkit.recipe import Recipe


@pytest.fixture
def recipe(tiny_model_folder: Callable[..., Path]) -> Callable[..., Recipe]:
    def make(teacher: Path | str = "", **changes: Any) -> Recipe:
        return Recipe(
            model=str(tiny_model_folder()),
            objective={"type": "distillation", "teacher": str(teacher)},
            compute={"device": "cpu", "dtype": "float32"},
        ).replace(changes)

    return make


@pytest.fixture
def with_another_word(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    from transformers import AutoTokenizer

    folder = tmp_path / "other"
    shutil.copytree(tiny_model_folder(), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(folder)
    return folder


def test_a_teacher_is_only_read(
    recipe: Callable[..., Recipe], tiny_model_folder: Callable[..., Path]
) -> None:
    made = recipe(tiny_model_folder(hidden_size=64))
    check_teacher(made)
    loaded = load_teacher(made)
    assert loaded.dtype == "float32"
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_it_has_as_few_bits_as_the_student(recipe: Callable[..., Recipe]) -> None:
    asked = teacher_of(recipe("some/teacher", **{"model.quantization": "int8"}))
    assert asked is not None
    assert (asked.source, asked.quantization, asked.trust_remote_code) == ("some/teacher", "int8", False)
    assert teacher_of(recipe("t").replace(objective="sft")) is None


def test_another_vocabulary_is_refused_with_both_models_named(
    recipe: Callable[..., Recipe], with_another_word: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_model", lambda *_, **__: pytest.fail("a model was loaded for that"))
    made = recipe(with_another_word)
    with pytest.raises(ModelError) as refused:
        check_teacher(made)
    said = refused.value.message
    assert f"model.source {made.model.source!r} and objective.teacher {str(with_another_word)!r}" in said
    assert "'<tool>' is missing and" in said
    assert "same family" in refused.value.advice


def test_a_teacher_that_is_not_there_is_an_error_of_that_field(recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(ModelError, match=r"^objective.teacher is empty"):
        check_teacher(recipe())
    with pytest.raises(ModelError, match=r"^objective.teacher: .*nowhere"):
        check_teacher(recipe("./nowhere"))


def test_the_estimate_counts_it(
    recipe: Callable[..., Recipe], tiny_model_folder: Callable[..., Path]
) -> None:
    alone = estimate(recipe(), row_tokens=50)
    taught = estimate(recipe(tiny_model_folder(hidden_size=64)), row_tokens=50)
    assert alone.peak_gb is not None
    assert taught.peak_gb == pytest.approx(alone.peak_gb + taught.parts["teacher"])
    lost = estimate(recipe("./nowhere"))
    assert lost.verdict == "unknown"
    assert "objective.teacher" in lost.reason
