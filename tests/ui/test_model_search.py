"""Finding a model: the catalogue at once, the Hub behind it, nothing asked that is not wanted any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ftkit.errors import ModelError
from ftkit.models import hub
from ftkit.models.hub import Found
from ftkit.recipe import Recipe
from ftkit.ui import Workspace, model_search
from ftkit.ui.model_search import ModelSearch


@pytest.fixture
def taken() -> list[str]:
    return []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the Hub was asked for; it knows one model."""
    texts: list[str] = []

    def search(text: str, progress: Callable[[str, None], None], **_: object) -> list[Found]:
        progress("asking", None)
        texts.append(text)
        return [Found("org/<b>new</b>", 12_345, True, 900), Found("Qwen/Qwen3-0.6B", 9, False, None)]

    monkeypatch.setattr(hub, "search", search)
    monkeypatch.setattr(model_search, "_PAUSE", 0.05)
    return texts


def test_typing_filters_the_catalogue_at_once(taken: list[str], asked: list[str]) -> None:
    search = ModelSearch(Workspace(), taken.append)
    everything = search.find("")
    assert len(everything) > 100
    found = search.find("gemma 270m")
    assert found == ["google/gemma-3-270m-it"]
    assert "to be accepted on the Hub first" in search._facts.value
    assert search.find("bert") == []
    assert search._use.disabled
    search.find("phi-2")
    search._use.click()
    assert taken == ["microsoft/phi-2"]
    search.wait()


def test_the_hub_adds_what_the_catalogue_lacks_escaped(taken: list[str], asked: list[str]) -> None:
    search = ModelSearch(Workspace(), taken.append)
    search.find("qwen3 0.6b")
    search.wait()
    assert asked == ["qwen3 0.6b"]
    sources = [source for _, source in search._list.options]
    assert sources == ["Qwen/Qwen3-0.6B", "org/<b>new</b>"]
    search._list.value = "org/<b>new</b>"
    assert "org/&lt;b&gt;new" in search._facts.value
    assert "12,345" in search._facts.value
    search.take()
    assert taken == ["org/<b>new</b>"]


def test_typing_on_cancels_what_was_asked_before(taken: list[str], asked: list[str]) -> None:
    search = ModelSearch(Workspace(), taken.append)
    for text in ("qwe", "qwen", "qwen3"):
        search.find(text)
    search.wait()
    assert asked == ["qwen3"]


def test_an_answer_that_comes_late_is_not_shown(taken: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def search(text: str, progress: Callable[[str, None], None], **_: object) -> list[Found]:
        begun.set()
        go_on.wait(10)
        try:
            progress("asking", None)
        finally:
            ended.set()
        return [Found("org/late", 1, False, None)]

    monkeypatch.setattr(hub, "search", search)
    monkeypatch.setattr(model_search, "_PAUSE", 0.0)
    box = ModelSearch(Workspace(), taken.append)
    box.find("llama")
    assert begun.wait(10)
    box.find("ll")
    go_on.set()
    assert ended.wait(10)
    assert "org/late" not in [source for _, source in box._list.options]
    assert box._hub.value == ""


def test_offline_the_catalogue_is_all(taken: list[str], asked: list[str]) -> None:
    search = ModelSearch(Workspace(Recipe(compute={"offline": True})), taken.append)
    assert search.find("qwen3 0.6b") == ["Qwen/Qwen3-0.6B"]
    search.wait()
    assert asked == []
    assert "Offline" in search._hub.value


def test_a_hub_that_fails_leaves_the_catalogue(taken: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: object, **__: object) -> None:
        raise ModelError("The Hub <cannot> be reached.")

    monkeypatch.setattr(hub, "search", search)
    monkeypatch.setattr(model_search, "_PAUSE", 0.0)
    box = ModelSearch(Workspace(), taken.append)
    assert box.find("qwen3 0.6b") == ["Qwen/Qwen3-0.6B"]
    box.wait()
    assert "&lt;cannot&gt;" in box._hub.value
