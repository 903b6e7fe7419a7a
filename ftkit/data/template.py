"""The tokenizer's own chat template: the one truth for training, preview, chat and evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np

from ftkit.data.encode import Encoded
from ftkit.data.example import Conversation, Message, PlainText
from ftkit.errors import TemplateError

_FOLDER = Path(__file__).with_name("templates")
_THOUGHT_ENDS = "</think>"
NAMED = ("chatml", "alpaca", "zephyr")
"""Templates for models that have none."""


class Template:
    """Renders and encodes conversations with a tokenizer's chat template (in transformers' sandbox).

    Parameters
    ----------
    tokenizer
        A fast transformers tokenizer.
    system_prompt
        Put before every conversation that has no system message.
    template
        Used instead of the tokenizer's own: a name of `NAMED`, or the path of a Jinja file.

    Raises
    ------
    TemplateError
        When there is no such template.
    """

    def __init__(
        self, tokenizer: Any, *, system_prompt: str | None = None, template: str | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt
        self._source = _read_template(template) if template else None

    @property
    def source(self) -> str:
        """The template's Jinja text."""
        text = self._source or self.tokenizer.chat_template
        if not isinstance(text, str):
            raise TemplateError(
                "The model's tokenizer has no chat template.",
                f"Choose one in data.template ({', '.join(NAMED)}), take an instruct (chat) model, or train "
                "on plain text with objective 'pretraining'.",
            )
        return text

    def save(self, folder: str | Path) -> None:
        """Write the template beside a model or adapter, as `chat_template.jinja`, where there is one."""
        if self._source or isinstance(self.tokenizer.chat_template, str):
            (Path(folder) / "chat_template.jinja").write_text(self.source, encoding="utf-8")

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        tools: Sequence[Any] = (),
    ) -> str:
        """The conversation as the text that the model sees.

        A template that knows no tool calls gets them as the JSON text of the turn: they must not vanish.
        """
        knows_calls = "tool_calls" in self.source
        turns = [message.as_dict() if knows_calls else _written_out(message) for message in messages]
        if self.system_prompt is not None and (not turns or turns[0]["role"] != "system"):
            turns.insert(0, {"role": "system", "content": self.system_prompt})
        try:
            return self.tokenizer.apply_chat_template(
                turns,
                tools=list(tools) or None,
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except TemplateError:
            raise
        except Exception as error:
            raise TemplateError(f"The chat template cannot render this conversation: {error}") from error

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the conversation and the header of the reply to come."""
        text = self.render(messages, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, example: Conversation | PlainText, train_on: str = "assistant") -> Encoded:
        """Token ids and the mask of trained tokens.

        The whole is tokenised once, so the ids are those of `apply_chat_template`; a token is trained when it
        starts inside an assistant turn's text, up to that turn's EOS.

        Raises
        ------
        TemplateError
            When the template renders the beginning of a conversation differently once more turns follow.
        """
        eos = self.tokenizer.eos_token_id
        if isinstance(example, PlainText):
            ids = [*self.tokenizer(example.text)["input_ids"], eos]
            return Encoded(np.array(ids, np.int32), np.ones(len(ids), bool), example.row)
        text = self.render(example.messages, tools=example.tools)
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = list(encoding["input_ids"])
        starts = np.array([start for start, _ in encoding["offset_mapping"]], dtype=np.int64)
        mask = np.zeros(len(ids), bool)
        spans = self._assistant_spans(example, text)
        for start, end in spans[-1:] if train_on == "last" else spans:
            inside = np.flatnonzero((starts >= start) & (starts < end))
            ends = [place for place in inside if ids[place] == eos]
            mask[inside[inside <= ends[-1]] if ends else inside] = True
        if ids[-1] != eos and eos not in ids[np.flatnonzero(mask)[-1] if mask.any() else 0 :]:
            ids, mask = [*ids, eos], np.append(mask, True)
        if train_on == "all":
            mask = np.ones(len(ids), bool)
        return Encoded(np.array(ids, np.int32), mask, example.row)

    def _assistant_spans(self, example: Conversation, text: str) -> list[tuple[int, int]]:
        """Where in `text` each trained assistant turn stands, its closing marks included."""
        spans = []
        for place, message in enumerate(example.messages):
            if message.role != "assistant" or message.weight == 0:
                continue
            before = self.render(example.messages[:place], add_generation_prompt=True, tools=example.tools)
            through = self.render(example.messages[: place + 1], tools=example.tools)
            if not (text.startswith(through) and through.startswith(before)):
                return self._marked_spans(example, text)
            spans.append((len(before), len(through)))
        return spans

    def _marked_spans(self, example: Conversation, text: str) -> list[tuple[int, int]]:
        """The same for templates that change earlier turns once later ones follow (they strip reasoning).

        The conversation is rendered with a mark in place of each answer, its reasoning kept: what stands
        between the marks is the template's own, and is found again in `text`, in order.
        """
        places = [n for n, message in enumerate(example.messages) if message.role == "assistant"]
        marks = [f"\ue000{n}\ue001" for n in places]
        marked = list(example.messages)
        for place, mark in zip(places, marks, strict=True):
            thought, tag, _ = marked[place].content.rpartition(_THOUGHT_ENDS)
            marked[place] = replace(marked[place], content=f"{thought}{tag}{mark}")
        rest = self.render(marked, tools=example.tools)
        fixed = []
        for mark in marks:
            if rest.count(mark) != 1:
                raise self._unfindable(example)
            piece, rest = rest.split(mark)
            fixed.append(piece)
        fixed.append(rest)
        if not text.startswith(fixed[0]) or not text.endswith(fixed[-1]):
            raise self._unfindable(example)
        eos, header = self.tokenizer.eos_token or "", self._header(example)
        at, spans = len(fixed[0]), []
        for number, place in enumerate(places):
            after, last = fixed[number + 1], number == len(places) - 1
            end = len(text) - len(after) if last else text.find(after, at)
            said = text[at:end] if end >= at else None
            message = example.messages[place]
            if said is None or said.strip() not in message.content:
                raise self._unfindable(example)
            before = fixed[number]
            own = len(before) - (before.rfind(header) + len(header)) if header and header in before else 0
            closing = after.find(eos) + len(eos) if eos and eos in after else 0
            if message.weight:
                spans.append((at - own, end + closing))
            at = end + len(after)
        return spans

    def _header(self, example: Conversation) -> str:
        """What the template writes before a reply that is to come, or the end of that."""
        asked = example.messages[:1] if example.messages[0].role == "user" else example.messages[:2]
        plain, prompt = self.render(asked), self.render(asked, add_generation_prompt=True)
        return prompt[len(commonprefix([plain, prompt])) :]  # noqa: RUF071  text, not paths

    @staticmethod
    def _unfindable(example: Conversation) -> TemplateError:
        return TemplateError(
            f"Row {example.row}: the chat template changes earlier turns when later ones follow, so its "
            "answers cannot be found exactly.",
            "Train on conversations of one exchange, or use another chat template.",
        )


def _read_template(name: str) -> str:
    path = _FOLDER / f"{name}.jinja" if name in NAMED else Path(name).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise TemplateError(
            f"There is no chat template {name!r}.", f"Known: {', '.join(NAMED)}; or the path of a Jinja file."
        ) from None


def _written_out(message: Message) -> dict[str, Any]:
    """A message without tool calls: each stands as JSON in the text."""
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.tool_calls]
    return {"role": message.role, "content": "\n".join(filter(None, (message.content, *calls)))}
