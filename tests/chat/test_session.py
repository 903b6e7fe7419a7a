"""Conversations: histories, modes, stop, clear, regenerate, export."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftkit.chat import ChatSession, Sampling
from ftkit.data import Message
from ftkit.errors import FtkitError, ModelError
from ftkit.models import LoadedModel
from ftkit.recipe import Recipe

SHORT = Sampling(max_new_tokens=6, temperature=0)


@pytest.fixture
def session(loaded: LoadedModel) -> ChatSession:
    return ChatSession(loaded, sampling=SHORT)


def test_a_reply_has_text_tokens_time_and_why_it_ended(session: ChatSession) -> None:
    reply = session.send("Hello")["adapter"]
    assert reply.text
    assert reply.tokens == 6
    assert reply.finish == "length"
    assert not reply.stopped
    assert reply.tokens_per_second == pytest.approx(reply.tokens / reply.seconds)


def test_each_side_has_a_history_of_its_own(session: ChatSession) -> None:
    one = session.send("First", mode="adapter")
    both = session.send("Second", mode="both")
    assert list(both) == ["base", "adapter"]
    assert session.messages("adapter") == [
        Message("user", "First"),
        Message("assistant", one["adapter"].text),
        Message("user", "Second"),
        Message("assistant", both["adapter"].text),
    ]
    assert session.messages("base") == [
        Message("user", "Second"),
        Message("assistant", both["base"].text),
    ]


def test_side_by_side_gives_what_each_side_gives_alone(session: ChatSession, loaded: LoadedModel) -> None:
    both = session.send("Hello", mode="both")
    for which in ("base", "adapter"):
        alone = ChatSession(loaded, sampling=SHORT).send("Hello", mode=which)[which]
        assert both[which].text == alone.text


def test_pieces_add_up_to_the_reply(session: ChatSession) -> None:
    heard = {"base": "", "adapter": ""}

    def listen(which: str, piece: str) -> None:
        heard[which] += piece

    replies = session.send("Hello", mode="both", on_piece=listen)
    assert heard == {which: reply.text for which, reply in replies.items()}


def test_stop_keeps_what_was_said(loaded: LoadedModel) -> None:
    session = ChatSession(loaded, sampling=Sampling(max_new_tokens=480, temperature=1.0, seed=1))
    reply = session.send("Hello", on_piece=lambda *_: session.stop())["adapter"]
    assert reply.stopped
    assert session.messages()[-1] == Message("assistant", reply.text)


def test_regenerate_replaces_the_last_reply_only(session: ChatSession) -> None:
    first = session.send("First")["adapter"]
    session.send("Second")
    session.sampling = Sampling(max_new_tokens=3, temperature=0)
    again = session.regenerate()["adapter"]
    assert again.tokens == 3
    contents = [message.content for message in session.messages()]
    assert contents == ["First", first.text, "Second", again.text]


def test_regenerate_that_fails_leaves_the_reply(session: ChatSession) -> None:
    session.send("First")
    before = session.messages()

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        session.regenerate(on_piece=broken)
    assert session.messages() == before
    session.regenerate()


def test_nothing_to_regenerate_says_so(session: ChatSession) -> None:
    with pytest.raises(FtkitError, match="no reply"):
        session.regenerate()


def test_a_failed_message_leaves_the_histories_alone(session: ChatSession) -> None:
    session.send("Hello")
    before = session.messages()
    with pytest.raises(FtkitError, match="tokens long"):
        session.send("brown fox " * 400)
    assert session.messages() == before
    session.send("Still here")


def test_an_empty_message_is_refused(session: ChatSession) -> None:
    with pytest.raises(FtkitError, match="nothing to send"):
        session.send("  \n")


def test_clear_forgets_both_sides(session: ChatSession) -> None:
    session.send("Hello", mode="both")
    session.clear()
    assert session.messages("base") == session.messages("adapter") == []
    assert session.export() == []


def test_another_system_prompt_starts_anew(session: ChatSession) -> None:
    session.send("Hello")
    session.system_prompt = session.system_prompt
    assert session.messages()
    session.system_prompt = "Be brief."
    assert session.messages() == []


def test_the_export_is_rows_to_train_on(loaded: LoadedModel) -> None:
    session = ChatSession(loaded, system_prompt="Be brief.", sampling=SHORT)
    reply = session.send("Hello")["adapter"]
    assert session.export() == [
        {
            "which": "adapter",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": reply.text},
            ],
        }
    ]


def test_the_system_prompt_reaches_the_model(loaded: LoadedModel) -> None:
    def said(prompt: str) -> str:
        sampling = Sampling(max_new_tokens=24, temperature=0)
        return ChatSession(loaded, system_prompt=prompt, sampling=sampling).send("Hello")["adapter"].text

    assert said("Extract the order as JSON.") != said("")


def test_modes_of_an_adapter_of_full_training_and_of_a_plain_model(
    loaded: LoadedModel,
    fully_trained: LoadedModel,
    tiny: Callable[..., LoadedModel],
    run_of: Callable[..., Any],
) -> None:
    assert ChatSession(loaded).modes == ["base", "adapter", "both"]
    assert ChatSession(tiny(None)).modes == ["adapter"]
    for full in (
        ChatSession(fully_trained),
        ChatSession(run_of(tiny(None), Recipe(method="full"))),
    ):
        assert full.modes == ["adapter"]
        with pytest.raises(ModelError, match="own weights were trained"):
            full.send("Hello", mode="both")


def test_an_unknown_mode_is_refused(session: ChatSession) -> None:
    with pytest.raises(ModelError, match="no mode 'tuned'"):
        session.send("Hello", mode="tuned")


def test_a_second_message_waits_for_nobody(loaded: LoadedModel) -> None:
    session = ChatSession(loaded, sampling=Sampling(max_new_tokens=480, temperature=1.0, seed=1))
    begun = threading.Event()
    speaker = threading.Thread(
        target=session.send, args=("Hello",), kwargs={"on_piece": lambda *_: begun.set()}
    )
    speaker.start()
    assert begun.wait(20)
    with pytest.raises(FtkitError, match="still under way"):
        session.send("Me too")
    session.stop()
    speaker.join(20)
    assert not session.replying


def test_a_runs_system_prompt_and_suggestions_come_from_its_rows(
    loaded: LoadedModel, run_of: Callable[..., Any]
) -> None:
    session = ChatSession(run_of(loaded, Recipe(data="starter:extract")))
    assert session.system_prompt == "Extract the order as JSON."
    assert len(session.suggestions) == 4
    assert len(set(session.suggestions)) == 4
    assert ChatSession(run_of(loaded), system_prompt="").system_prompt == ""


def test_rows_that_are_gone_give_no_hints(
    loaded: LoadedModel, run_of: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = Recipe(data={"source": str(tmp_path / "gone.jsonl"), "system_prompt": "Be brief."})
    session = ChatSession(run_of(loaded, recipe))
    assert session.system_prompt == "Be brief."
    assert session.suggestions == ()


def test_a_run_that_is_loading_is_waited_for(loaded: LoadedModel, run_of: Callable[..., Any]) -> None:
    run = run_of(
        None, active=True, status="running", progress=SimpleNamespace(step=0, stage="Loading the model")
    )
    told: list[str] = []

    def progress(text: str, _fraction: float | None) -> None:
        told.append(text)
        run.loaded = loaded

    session = ChatSession(run, sampling=SHORT)
    assert session.send("Hello", progress=progress)["adapter"].text
    assert told == ["The run is running: Loading the model"]


def test_waiting_for_a_run_can_be_stopped(run_of: Callable[..., Any]) -> None:
    run = run_of(None, active=True, status="queued", progress=SimpleNamespace(step=0, stage=""))
    session = ChatSession(run)
    with pytest.raises(FtkitError, match="no model yet"):
        session.send("Hello", progress=lambda *_: session.stop())
