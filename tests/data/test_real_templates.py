"""Answers are found in the chat templates of real models, as TRL ships them, where it is installed."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from ftkit.data import Conversation, Message, Template
from ftkit.errors import TemplateError

_spec = importlib.util.find_spec("trl")
FOLDER = Path(_spec.origin).parent / "chat_templates" if _spec and _spec.origin else Path("no trl")
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja") if not path.stem.endswith("_training"))
EOS = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "gemma": "<eos>",
    "diffusion_gemma": "<eos>",
    "glm4moe": "<|endoftext|>",
    "gptoss": "<|return|>",
    "llama3": "<|eot_id|>",
    "phi3": "<|endoftext|>",
    "idefics3": "<end_of_utterance>",
    "smolvlm": "<end_of_utterance>",
    "muse": "<|eot|>",
}
SPECIAL = [
    "<end_of_turn>",
    "<start_of_turn>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|im_start|>",
    "<|start|>",
]
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "look", "arguments": {"at": "here"}}}
TALKS = {
    "one exchange": "Where?|In Lisbon.",
    "three exchanges": "Hi|Hello!|Bye|So long.|Once more|Good bye.",
    "reasoning": "2+2?|<think>\neasy\n</think>\n\nfour|3+3?|<think>\nalso\n</think>\n\nsix",
}

pytestmark = pytest.mark.skipif(not NAMES, reason="TRL is not installed: its templates are not here")


_made: dict[str, Any] = {}


def template(name: str, base: Any) -> Template:
    if name in _made:
        return _made[name]
    tokenizer = copy.deepcopy(base)
    eos = next((text for start, text in EOS.items() if name.startswith(start)), "<|im_end|>")
    tokenizer.add_special_tokens({"eos_token": eos, "bos_token": "<bos>"})
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    _made[name] = Template(tokenizer)
    return _made[name]


def rendered(made: Template, turns: tuple[Message, ...]) -> str:
    try:
        return made.render(turns)
    except TemplateError as error:
        pytest.skip(f"it does not render such a conversation: {error.message:.80}")


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_found_and_nothing_else(name: str, starter_tokenizer: Any) -> None:
    made = template(name, starter_tokenizer)
    for talk in TALKS.values():
        said = talk.split("|")
        turns = tuple(Message("assistant" if n % 2 else "user", text) for n, text in enumerate(said))
        text = rendered(made, turns)
        spans = [text[start:end] for start, end in made._assistant_spans(Conversation(turns), text)]
        assert len(spans) == len(said) // 2
        for span, asked, answer in zip(spans, said[::2], said[1::2], strict=True):
            assert answer.split("\n")[-1] in span
            assert asked not in span
            assert "<|im_start|>" not in span
        if "<|im_end|>" in text:
            assert all(span.endswith("<|im_end|>") for span in spans)


@pytest.mark.parametrize("name", NAMES)
def test_a_call_is_learned_and_its_result_is_not(name: str, starter_tokenizer: Any) -> None:
    turns = (
        Message("user", "Where?"),
        Message("assistant", "", (CALL,)),
        Message("tool", "There it is", tool_call_id="abcdefghi", name="look"),
        Message("assistant", "Here."),
    )
    made = template(name, starter_tokenizer)
    text = rendered(made, turns)
    assert "look" in text
    spans = [text[start:end] for start, end in made._assistant_spans(Conversation(turns), text)]
    assert len(spans) == 2
    assert "look" in spans[0]
    assert "Here." in spans[1]
    assert not any("There it is" in span for span in spans)
