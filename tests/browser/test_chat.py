"""The Chat panel in a real JupyterLab, on a tiny model that talks until it is stopped."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

SETUP = """
import torch
from ftkit.chat import ChatSession, Sampling
from ftkit.models import apply_method, load_model
from ftkit.recipe import Compute, LoRA, Model
from ftkit.ui import ChatPanel

loaded = load_model(Model(source={folder!r}), Compute(device="cpu", dtype="float32", threads=1))
apply_method(loaded, LoRA(rank=4))
for name, parameter in loaded.model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter, std=0.5)
loaded.model.config.eos_token_id = loaded.model.generation_config.eos_token_id = None
loaded.tokenizer.eos_token = None
panel = ChatPanel(session=ChatSession(loaded, system_prompt=""))
panel.set(max_new_tokens=12, seed=3)
panel
"""
LONG = "panel.set(max_new_tokens=4000)"
ASK = "print(panel.ask('From a cell', mode='base'))"


@pytest.fixture
def notebook(open_notebook: Callable[..., Any], tiny_model_folder: Callable[..., Path]) -> Any:
    folder = tiny_model_folder(tie_word_embeddings=False, initializer_range=0.3, max_position_embeddings=8192)
    opened = open_notebook([SETUP.format(folder=str(folder)), LONG, ASK])
    opened.run(0, timeout=120)
    return opened


def message_box(panel: Locator) -> Locator:
    return panel.get_by_role("textbox", name="Message", exact=True)


def say(panel: Locator, text: str) -> None:
    message_box(panel).fill(text)
    message_box(panel).press("Enter")


def test_a_conversation_side_by_side_survives_a_reload(notebook: Any) -> None:
    panel = notebook.output(0)
    panel.get_by_role("radio", name="Side by side").check()
    box = message_box(panel)
    box.fill("One line")
    box.press("Shift+Enter")
    expect(box).to_have_value("One line\n")
    box.press_sequentially("<b>two</b>")
    box.press("Enter")
    expect(panel.get_by_role("group", name="You")).to_have_text("One line\n<b>two</b>")
    for name in ("Base", "Tuned"):
        reply = panel.get_by_role("group", name=f"Reply, {name}")
        expect(reply).to_contain_text("12 tokens")
        expect(reply.get_by_role("button", name=f"Copy the reply, {name}")).to_be_visible()
    notebook.run(2)
    expect(panel.get_by_role("group", name="You")).to_have_count(2)

    notebook.reload()
    expect(panel.get_by_role("group", name="You")).to_have_count(2)
    expect(panel.get_by_role("radio", name="Side by side")).to_be_checked()
    say(panel, "Again")
    expect(panel.get_by_role("group", name="You")).to_have_count(3)
    panel.get_by_role("button", name="Clear the conversation").click()
    expect(panel.get_by_role("group", name="You")).to_have_count(0)
    assert notebook.errors == []


def test_a_reply_streams_and_is_stopped(notebook: Any) -> None:
    panel = notebook.output(0)
    notebook.run(1)
    say(panel, "Talk on and on")
    reply = panel.get_by_role("group", name="Reply, Tuned").locator(".ftk-chat-bubble")
    expect(reply).to_have_text(re.compile(".{20}", re.DOTALL))
    early = reply.inner_text()
    expect(reply).not_to_have_text(early)
    panel.get_by_role("button", name="Stop").click()
    expect(panel.get_by_text("stopped")).to_be_visible()
    expect(panel.get_by_role("button", name="Send")).to_be_visible()
    assert notebook.errors == []


def test_a_wrong_setting_and_a_message_that_is_too_long_are_explained(notebook: Any) -> None:
    panel = notebook.output(0)
    panel.get_by_role("button", name="Settings of the chat").click()
    temperature = panel.get_by_label("Temperature")
    temperature.fill("abc")
    temperature.press("Tab")
    expect(panel.get_by_role("alert").filter(has_text="'abc' is not a number")).to_be_visible()
    temperature.fill("0")
    temperature.press("Tab")
    expect(panel.get_by_text("'abc' is not a number")).to_have_count(0)
    say(panel, "quick brown fox " * 3000)
    expect(panel.get_by_role("alert").filter(has_text="this model can look at 8192")).to_be_visible()
    expect(panel.get_by_role("button", name="Ask this again")).to_be_visible()
    assert notebook.errors == []
