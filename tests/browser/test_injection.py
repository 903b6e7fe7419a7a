# ruff: noqa: E501  texts and scripts read best on a line
"""Hostile text in every place that text can enter: no script runs, no request leaves, nothing becomes markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Request, expect

from .hostile import EVERY, MARK, NAME
from .jupyter import Notebook

TRAP = """
(() => {
window.evil = [];
for (const name of ["alert", "confirm", "prompt", "open"]) window[name] = () => window.evil.push(`${name} ${new Error().stack}`);
})()
"""
START = """
import json, shutil, time, ftkit, ipywidgets
from pathlib import Path
from ftkit.ui import DataPanel, ModelPanel, MonitorPanel, TrainPanel, Workspace, markup
EVERY, NAME = {every!r}, {name!r}
TINY, BROKEN = {tiny!r}, {broken!r}

def panel(kind, **recipe):
    return kind(Workspace(ftkit.Recipe(**recipe)))
"""
DATA = """
rows = [{"prompt": EVERY, "completion": EVERY, NAME: EVERY, "system": EVERY} for n in range(6)]
rows += [{"prompt": EVERY, "completion": 3, NAME: NAME}, {"prompt": "", "completion": EVERY}]
rows[0]["images"] = [NAME, "https://evil.example/row.png", "data:image/svg+xml;base64,PHN2Zz4="]
Path(NAME + ".jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
shown = panel(DataPanel, model=TINY, data={"source": NAME + ".jsonl", "held_out_fraction": 0.2,
                                           "system_prompt": EVERY.replace(chr(0), "")})
shown.wait()
shown
"""
COLUMNS = """
Path("odd.csv").write_text('"' + NAME.replace('"', "") + '","b"\\n"x","y"\\n')
mapped = panel(DataPanel, model=TINY, data="odd.csv")
try:
    mapped.wait()
except ftkit.errors.FtkitError:
    pass
mapped
"""
TEMPLATE = """
refusing = panel(DataPanel, model=BROKEN, data=NAME + ".jsonl")
refusing.wait()
refusing
"""
MODEL = """
shutil.copytree(TINY, NAME, dirs_exist_ok=True)
(Path(NAME) / (NAME + ".py")).write_text("raise SystemExit")
models = panel(ModelPanel, model={"source": NAME, "trust_remote_code": True})
models.wait()
missing = panel(ModelPanel, model="./" + EVERY.replace(chr(0), ""))
missing.wait()
ipywidgets.VBox([models, missing])
"""
MONITOR = """
from ftkit.runs.folder import RunFolder
folder = RunFolder.create(ftkit.Recipe(model=TINY, output={"folder": "runs", "name": "plain"}))
log = folder.log
log.append("state", state="running", detail=EVERY, error=None)
log.append("stage", text=EVERY, fraction=0.5)
log.append("steps", step=0, total_steps=9)
for step in range(1, 9):
    log.append("train", step=step, epoch=0.1, loss=1 / step, learning_rate=1e-4, grad_norm=1.0, elapsed=1.0)
log.append("note", level="warning", text=EVERY)
log.append("note", level=NAME, text=EVERY)
log.append("sample", step=3, prompt=EVERY, reply=EVERY)
log.append("environment", facts={NAME: EVERY})
error = {"message": EVERY, "advice": EVERY, "traceback": EVERY}
log.append("state", state="failed", detail=EVERY, error=error)
shutil.copytree("runs/plain", "runs/" + NAME)
run = ftkit.attach("runs/" + NAME)
chart = run.chart()
simple = MonitorPanel(run=run)
simple.draw_with("svg")
follower = panel(TrainPanel)
follower.workspace.run = run
ipywidgets.VBox([MonitorPanel(run=run), simple, chart, follower])
"""
CHAT = """
from ftkit.ui.transcript import Transcript
def reply(text):
    return {"text": text, "tokens": 3, "tokens_per_second": 1.0, "finish": EVERY}
def refuse(action, content):
    raise ValueError(EVERY)
talk = Transcript(refuse)
talk.subject, talk.note, talk.status = NAME, EVERY, EVERY
talk.settings = {"system_prompt": EVERY, "temperature": EVERY, "seed": NAME}
talk.modes = {"base": EVERY, "adapter": "", "both": EVERY}
talk.turns = [
    {"id": 1, "user": EVERY, "mode": "both", "replies": {"base": reply(EVERY), "adapter": reply(EVERY)}, "error": None},
    {"id": 2, "note": EVERY},
    {"id": 3, "user": EVERY, "mode": "adapter", "replies": {}, "error": {"message": EVERY, "advice": EVERY}},
]
empty = Transcript(refuse)
empty.subject, empty.suggestions = NAME, [EVERY, NAME]
listed = Transcript(refuse)
listed.runs = [{"path": NAME, "name": NAME, "detail": EVERY}]
ipywidgets.VBox([talk, empty, listed])
"""
TEXTS = """
from ftkit.ui.code import CodeView
from ftkit.ui.tokens import TokenView
clean = EVERY.replace(chr(0), "")
trained = panel(TrainPanel, model=clean, data={"source": clean, "system_prompt": clean})
trained._show_code.value = True
tokens = [{"id": n, "text": text, "trained": True, "special": False} for n, text in enumerate(EVERY.split(chr(10)))]
ipywidgets.VBox([
    trained, ftkit.Lab(recipe=trained.workspace.recipe, folder="runs"), CodeView(EVERY),
    TokenView(tokens, label=EVERY),
    ipywidgets.HTML(markup.failure(ValueError(EVERY)) + markup.note(EVERY) + markup.chip(EVERY, "ok", EVERY)
                    + markup.heading(EVERY, EVERY) + markup.bar([(0.5, "run", EVERY)], EVERY)
                    + markup.state_chip(EVERY) + markup.prose(EVERY) + markup.error_box(EVERY, EVERY, EVERY)),
])
"""
CELLS = {
    "rows, columns, a file's name, a system prompt": DATA,
    "columns to map": COLUMNS,
    "a template's own error": TEMPLATE,
    "a model's folder and its files": MODEL,
    "a run's name, stages, notes, errors and charts": MONITOR,
    "replies, system prompts, suggestions": CHAT,
    "code, tokens, exceptions, chips, bars": TEXTS,
}
MARKUP = """
() => [...document.querySelectorAll(".jp-OutputArea-output")].flatMap(area => [
    ...area.querySelectorAll(".evil, script, iframe, object, embed, base, math, mjx-container, .MathJax"),
    ...area.querySelectorAll("[onerror], [onload], [onmouseover], [href*='evil'], [src*='evil'], [action]"),
].map(node => node.outerHTML.slice(0, 200)))
"""
TOUCH = """
() => {
    for (const node of document.querySelectorAll(".jp-OutputArea-output *"))
        for (const kind of ["mouseover", "mouseenter", "focus"]) node.dispatchEvent(new Event(kind, {bubbles: true}));
    for (const fold of document.querySelectorAll(".jp-OutputArea-output details")) fold.open = true;
}
"""
INERT = re.compile(r"^(http|ws)://127\.0\.0\.1[:/]|^(data|blob|about):")


@pytest.fixture
def notebook(
    open_notebook: Callable[..., Notebook], tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> Notebook:
    broken = tiny_model_folder(chat_template="{{ raise_exception(messages[0].content) }}")
    start = START.format(every=EVERY, name=NAME, tiny=str(tiny_model_folder()), broken=str(broken))
    start = f"import os; os.chdir({str(tmp_path)!r})\n{start}"
    opened = open_notebook([start, *CELLS.values()], height=1600)
    opened.page.add_init_script(TRAP)
    opened.page.evaluate(TRAP)
    return opened


def test_hostile_text_stays_text(notebook: Notebook) -> None:
    page = notebook.page
    asked: list[str] = []

    def note(request: Request) -> None:
        if not INERT.match(request.url) or "evil" in request.url.lower():
            asked.append(request.url)

    page.on("request", note)
    page.route(re.compile("evil.example"), lambda route: route.abort())
    notebook.run(0)
    for index, place in enumerate(CELLS, start=1):
        notebook.run(index, timeout=120)
        expect(notebook.output(index), place).to_contain_text(MARK, timeout=60_000)
    page.wait_for_timeout(1500)

    def all_is_text(when: str) -> None:
        page.evaluate(TOUCH)
        page.wait_for_timeout(500)
        assert page.evaluate("() => window.evil") == [], f"{when}: a script ran"
        assert page.evaluate(MARKUP) == [], f"{when}: text became markup"
        assert asked == [], f"{when}: a request left"

    all_is_text("shown")
    chat = notebook.output(list(CELLS).index("replies, system prompts, suggestions") + 1)
    chat.locator(".ftk-chat-choice").first.click()
    expect(chat.get_by_role("alert").first).to_contain_text(MARK, timeout=30_000)
    box = notebook.output(1).get_by_label("Search").first
    box.fill("<img src=x class=evil")
    expect(notebook.output(1).locator("mark.ftk-hit").first).to_contain_text(
        "<img src=x class=evil", timeout=30_000
    )
    all_is_text("clicked and searched")
    notebook.theme("dark")
    notebook.reload()
    page.evaluate("() => { window.evil = window.evil ?? []; }")
    page.wait_for_timeout(3000)
    all_is_text("reloaded")
