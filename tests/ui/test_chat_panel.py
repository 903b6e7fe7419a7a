"""The Chat panel: what a click does, what a cell does, and that both do the same."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftkit.chat import ChatSession, Reply
from ftkit.errors import FtkitError, ModelError
from ftkit.recipe import Recipe
from ftkit.ui import ChatPanel, Workspace, transcript
from ftkit.ui.panels import chat as chat_module
from ftkit.ui.transcript import Transcript
from tests.waiting import up_to

until = up_to(10)


class Parrot(ChatSession):
    """A session whose model repeats what it hears; the rest of it is the real one."""

    hold: threading.Event | None = None

    def _reply(self, text: str, mode: str, on_piece: Any, progress: Any) -> dict[str, Reply]:
        from ftkit.data import Message

        if text == "break":
            raise ZeroDivisionError("the parrot fell")
        if text == "too long":
            raise FtkitError("The conversation is too long.", "Clear the chat.")
        progress("Loading the parrot", 0.5)
        sides = ("base", "adapter") if mode == "both" else (mode,)
        said = dict.fromkeys(sides, "")
        finish = "end"
        for word in f"{text} {len(self.messages(sides[0]))}".split():
            for which in sides:
                said[which] += f"{which}:{word} "
                on_piece(which, f"{which}:{word} ")
            if self.hold is not None:
                self._cancelled.wait(10)
            if self._cancelled.is_set():
                finish = "stopped"
                break
        for which in sides:
            self._histories[which] += [Message("user", text), Message("assistant", said[which])]
        self._last = (text, mode)
        return {which: Reply(said[which], 10, 2.0, finish) for which in sides}


def a_run(name: str = "demo", method: str = "lora", **changes: Any) -> Any:
    run = SimpleNamespace(
        name=name,
        path=Path("runs") / name,
        recipe=Recipe(method=method),
        loaded=None,
        active=False,
        status="finished",
        progress=SimpleNamespace(step=12, stage=""),
    )
    vars(run).update(changes)
    return run


@pytest.fixture(autouse=True)
def parrot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chat_module, "ChatSession", Parrot)


@pytest.fixture
def panel() -> Iterator[ChatPanel]:
    made = ChatPanel(run=a_run())
    assert made._hints.wait(20)
    yield made
    made.close()


@pytest.fixture
def holding(panel: ChatPanel) -> ChatPanel:
    """A panel whose model stops after each word until it is told to stop."""
    panel.session.hold = threading.Event()
    return panel


class Page:
    """The other end of the widget's messages."""

    def __init__(self, panel: ChatPanel) -> None:
        self.panel = panel
        self.answers: list[dict[str, Any]] = []
        self._ids = itertools.count()
        panel.view.send = lambda content, buffers=None: self.answers.append(content)

    def click(self, action: str, **fields: Any) -> dict[str, Any]:
        number = f"id-{next(self._ids)}"
        self.panel.view._answer(self.panel.view, {"id": number, "action": action, **fields}, [])
        answer = self.answers[-1]
        assert answer["id"] == number
        return answer


def test_ask_gives_the_reply_and_shows_it(panel: ChatPanel) -> None:
    assert panel.ask("Hello there") == "adapter:Hello adapter:there adapter:0 "
    (turn,) = panel.view.turns
    assert turn["user"] == "Hello there"
    assert turn["replies"]["adapter"]["text"] == "adapter:Hello adapter:there adapter:0 "
    assert turn["replies"]["adapter"]["tokens_per_second"] == 5.0
    assert turn["error"] is None
    assert panel.view.live == {}
    assert not panel.view.replying
    assert panel.view.status == ""


def test_ask_side_by_side_gives_both(panel: ChatPanel) -> None:
    replies = panel.ask("Hi", mode="both")
    assert replies == {"base": "base:Hi base:0 ", "adapter": "adapter:Hi adapter:0 "}
    assert list(panel.view.turns[0]["replies"]) == ["base", "adapter"]


def test_a_click_does_what_the_method_does(panel: ChatPanel) -> None:
    page = Page(panel)
    assert page.click("mode", mode="base") == {"id": "id-0", "ok": True}
    assert page.click("send", text="Hi", mode="base")["ok"]
    until(lambda: panel.view.turns)
    assert panel.view.turns[0]["replies"]["base"]["text"] == "base:Hi base:0 "
    assert panel.mode == "base"


def test_a_click_returns_at_once_and_the_reply_streams(holding: ChatPanel) -> None:
    assert Page(holding).click("send", text="one two three", mode="adapter")["ok"]
    assert holding.view.replying, "the click returned while the model holds its reply back"
    until(lambda: holding.view.live.get("replies", {}).get("adapter", {}).get("text") == "adapter:one ")
    assert holding.view.replying
    holding.stop()
    until(lambda: not holding.view.replying)
    assert holding.view.turns[0]["replies"]["adapter"]["finish"] == "stopped"


def test_a_page_that_is_slow_to_draw_is_not_sent_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(transcript.time, "monotonic", lambda: clock[0])
    view = Transcript(lambda action, content: None)

    def drawn() -> None:
        view._handle_custom_msg({"drawn": view.live["update"]}, [])

    def after(seconds: float) -> bool:
        clock[0] += seconds
        return view.stream(lambda: {"id": 1})

    assert after(1)
    assert not after(0.2)
    drawn()  # after 0.2 s
    assert after(0.06), "20 a second for a page that keeps up"
    clock[0] += 2
    drawn()  # after 2 s: this one is slow
    assert after(0.06)
    assert not after(3.8)
    assert after(0.3), "but one that is hidden still gets some"
    view.close()


def test_a_second_message_is_refused_while_a_reply_is_under_way(holding: ChatPanel) -> None:
    page = Page(holding)
    page.click("send", text="one", mode="adapter")
    answer = page.click("send", text="two", mode="adapter")
    assert not answer["ok"]
    assert "under way" in answer["error"]["message"]
    with pytest.raises(FtkitError, match="under way"):
        holding.ask("three")


def test_clear_during_a_reply_stops_it_and_leaves_nothing(holding: ChatPanel) -> None:
    holding.send("one two")
    holding.clear()
    until(lambda: not holding.replying)
    assert holding.view.turns == []
    assert holding.view.live == {}
    assert holding.session.messages() == []


def test_clear_empties_transcript_and_histories(panel: ChatPanel) -> None:
    panel.ask("Hi")
    assert Page(panel).click("clear")["ok"]
    assert panel.view.turns == []
    assert panel.session.messages() == []


def test_regenerate_replaces_the_last_turn(panel: ChatPanel) -> None:
    panel.ask("Hi")
    panel.ask("Again", mode="both")
    old = panel.view.turns[1]["id"]
    assert Page(panel).click("regenerate")["ok"]
    until(lambda: not panel.replying)
    assert [turn["user"] for turn in panel.view.turns] == ["Hi", "Again"]
    assert panel.view.turns[1]["id"] != old
    assert len(panel.session.messages("adapter")) == 4
    assert len(panel.session.messages("base")) == 2


def test_regenerate_after_an_error_asks_again(panel: ChatPanel) -> None:
    with pytest.raises(FtkitError):
        panel.ask("too long")
    panel.regenerate()
    until(lambda: not panel.replying)
    assert len(panel.view.turns) == 1
    assert panel.view.turns[0]["error"] == {
        "message": "The conversation is too long.",
        "advice": "Clear the chat.",
    }


def test_nothing_to_regenerate_is_said_on_the_page(panel: ChatPanel) -> None:
    assert "no reply" in Page(panel).click("regenerate")["error"]["message"]


def test_an_error_is_shown_in_its_turn_and_raised_by_ask(panel: ChatPanel) -> None:
    with pytest.raises(ZeroDivisionError):
        panel.ask("break")
    assert panel.view.turns[0]["error"]["message"] == "ZeroDivisionError: the parrot fell"
    assert panel.view.turns[0]["replies"] == {}
    assert not panel.replying
    assert panel.ask("Hi") == "adapter:Hi adapter:0 "


def test_every_message_is_answered_whatever_it_holds(panel: ChatPanel) -> None:
    page = Page(panel)
    assert "no action" in page.click("dance")["error"]["message"]
    assert not page.click("send", text="  ", mode="adapter")["ok"]
    assert not page.click("send", text="Hi", mode="nobody")["ok"]
    assert not page.click("mode", mode=None)["ok"]
    assert not page.click("settings", values={"colour": "blue"})["ok"]
    assert not page.click("settings", values=7)["ok"]
    assert not page.click("open", path="nowhere")["ok"]
    assert panel.view.turns == []


def test_settings_reach_the_session(panel: ChatPanel) -> None:
    page = Page(panel)
    assert page.click("settings", values={"temperature": "0,5"})["ok"]
    assert page.click("settings", values={"seed": "7", "max_new_tokens": "32"})["ok"]
    sampling = panel.session.sampling
    assert (sampling.temperature, sampling.seed, sampling.max_new_tokens) == (0.5, 7, 32)
    assert panel.view.settings["temperature"] == "0.5"
    page.click("settings", values={"seed": ""})
    assert panel.session.sampling.seed is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", "abc", "'abc' is not a number"),
        ("temperature", "", "empty"),
        ("top_p", "2", "from 0.0 to 1.0"),
        ("max_new_tokens", "2.5", "whole number"),
        ("seed", "x", "whole number"),
    ],
)
def test_a_wrong_setting_is_refused_and_the_old_one_kept(
    panel: ChatPanel, name: str, value: str, message: str
) -> None:
    before = dict(panel.view.settings)
    assert message in Page(panel).click("settings", values={name: value})["error"]["message"]
    assert panel.view.settings == before


def test_another_system_prompt_starts_anew_and_says_so(panel: ChatPanel) -> None:
    assert panel.view.settings["system_prompt"] == "Extract the order as JSON."
    panel.ask("Hi")
    panel.set(system_prompt="Be brief.")
    assert panel.session.messages() == []
    assert panel.session.system_prompt == "Be brief."
    assert panel.view.turns[-1]["note"] == "New system prompt: the conversation starts anew"
    with pytest.raises(FtkitError, match="no reply"):
        panel.regenerate()


def test_suggestions_are_held_out_rows(panel: ChatPanel) -> None:
    assert len(panel.view.suggestions) == 4


def test_without_a_run_the_panel_says_what_to_do() -> None:
    panel = ChatPanel()
    assert panel.view.subject == ""
    with pytest.raises(FtkitError, match="no model to talk to yet") as caught:
        panel.ask("Hi")
    assert caught.value.advice == "Start a run, or open a finished one."
    assert "no model" in Page(panel).click("send", text="Hi", mode="adapter")["error"]["message"]


def test_the_panel_follows_the_workspaces_run() -> None:
    workspace = Workspace()
    panel = ChatPanel(workspace)
    workspace.run = a_run("first")
    assert panel.view.subject == "first"
    panel.ask("Hi")
    workspace.run = a_run("second")
    assert panel.view.subject == "second"
    assert panel.view.turns[-1]["note"] == "Now talking to second"
    assert panel.session.messages() == []
    assert panel.ask("Hi") == "adapter:Hi adapter:0 "


def test_a_reply_of_the_run_before_is_not_shown_under_the_new_one() -> None:
    workspace = Workspace()
    panel = ChatPanel(workspace)
    workspace.run = a_run("first")
    old = panel.session
    old.hold = threading.Event()
    panel.send("one two three")
    workspace.run = a_run("second")
    until(lambda: not old.replying)
    time.sleep(0.05)
    assert panel.view.turns == []
    assert panel.view.live == {}
    assert not panel.view.replying


def test_a_run_given_to_the_panel_is_the_only_one_it_follows() -> None:
    workspace = Workspace()
    panel = ChatPanel(workspace, run=a_run("mine"))
    workspace.run = a_run("other")
    assert panel.view.subject == "mine"


def test_a_session_of_ones_own() -> None:
    session = Parrot(a_run())
    panel = ChatPanel(session=session)
    panel.ask("Hi")
    assert panel.session is session
    assert len(session.messages()) == 2


def test_a_fully_trained_run_offers_no_base() -> None:
    panel = ChatPanel(run=a_run(method="full"))
    assert panel.view.modes["adapter"] == ""
    assert "no longer in memory" in panel.view.modes["both"]
    with pytest.raises((FtkitError, ModelError), match="no longer in memory"):
        panel.ask("Hi", mode="base")
    assert not Page(panel).click("mode", mode="base")["ok"]
    assert panel.mode == "adapter"


def test_a_run_that_trains_is_noted_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftkit.ui.panels.chat.SECONDS_BETWEEN_LOOKS", 0.05)
    run = a_run(active=True, status="running")
    panel = ChatPanel(run=run)
    until(lambda: panel.view.note == "training, step 12")
    run.status, run.active = "stopped", False
    until(lambda: panel.view.note == "")
    run.status, run.active = "running", True  # resumed elsewhere
    until(lambda: panel.view.note == "training, step 12")
    run.status, run.active, run.progress.step = "failed", False, 0
    until(lambda: panel.view.note == "failed before the first step: nothing was learned")
    panel.close()
    assert not panel._ticker.running


def test_finished_runs_are_offered_and_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    import ftkit.runs

    runs = [a_run("good"), a_run("broken", status="failed"), a_run("half", status="stopped")]
    monkeypatch.setattr(ftkit.runs, "list_runs", lambda folder: runs)
    monkeypatch.setattr(ftkit.runs, "attach", lambda path: next(r for r in runs if str(r.path) == path))
    panel = ChatPanel()
    assert panel._listing.wait(10)
    assert [(run["name"], run["detail"]) for run in panel.view.runs] == [
        ("good", "finished, step 12"),
        ("half", "stopped, step 12"),
    ]
    assert Page(panel).click("open", path=panel.view.runs[0]["path"])["ok"]
    assert panel.workspace.run is runs[0]
    assert panel.view.subject == "good"


def test_the_repr_is_stable(panel: ChatPanel) -> None:
    panel.ask("Hi")
    assert repr(panel) == "ChatPanel('demo', turns=1)"
    assert repr(panel.view) == "Transcript('demo', turns=1)"


def test_opening_the_panel_loads_no_torch() -> None:
    code = (
        "import sys; from ftkit.ui import ChatPanel; ChatPanel(); "
        "print([name for name in ('torch', 'transformers', 'peft', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
