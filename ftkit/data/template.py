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
        self._headers: dict[bool, str] = {}

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
            When the template cannot render the conversation, or its answers cannot be found exactly.
        """
        (found,) = self.encode_many([example], train_on)
        if isinstance(found, TemplateError):
            raise found
        return found

    def encode_many(
        self, examples: Sequence[Conversation | PlainText], train_on: str = "assistant"
    ) -> list[Encoded | TemplateError]:
        """Each example as `encode` gives it, or the error; tokenised together, on all cores."""
        found: list[Encoded | TemplateError | None] = [None] * len(examples)
        texts, spans, places = [], [], []
        for place, example in enumerate(examples):
            try:
                text = example.text if isinstance(example, PlainText) else self._rendered(example)
                inside = [] if isinstance(example, PlainText) else self._assistant_spans(example, text)
            except TemplateError as error:
                found[place] = error
                continue
            texts.append(text)
            spans.append(inside)
            places.append(place)
        for conversations in (True, False):
            chosen = [
                n for n, at in enumerate(places) if isinstance(examples[at], PlainText) != conversations
            ]
            if not chosen:
                continue
            encoding = self.tokenizer(
                [texts[n] for n in chosen],
                add_special_tokens=not conversations,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            for position, n in enumerate(chosen):
                ids, row = encoding["input_ids"][position], examples[places[n]].row
                if conversations:
                    one = encoding.encodings[position]
                    found[places[n]] = self._masked(ids, one, spans[n], train_on, row)
                else:
                    ids = [*ids, self.tokenizer.eos_token_id]
                    found[places[n]] = Encoded(np.array(ids, np.int32), np.ones(len(ids), bool), row)
        return [one for one in found if one is not None]

    def _rendered(self, example: Conversation) -> str:
        return self.render(example.messages, tools=example.tools)

    def _masked(
        self, ids: list[int], encoding: Any, spans: list[tuple[int, int]], train_on: str, row: int
    ) -> Encoded:
        """Tokens with those trained that start inside a span, up to its last EOS."""
        eos = self.tokenizer.eos_token_id
        tokens = np.array(ids, np.int32)
        mask = np.zeros(len(ids), bool)
        for start, end in spans[-1:] if train_on == "last" else spans:
            first, after = _tokens_between(encoding, start, end, len(ids))
            ends = np.flatnonzero(tokens[first:after] == eos)
            mask[first : first + ends[-1] + 1 if len(ends) else after] = True
        if len(ids) and ids[-1] != eos and eos not in ids[np.flatnonzero(mask)[-1] if mask.any() else 0 :]:
            tokens, mask = np.append(tokens, np.int32(eos)), np.append(mask, True)
        if train_on == "all":
            mask = np.ones(len(tokens), bool)
        return Encoded(tokens, mask, row)

    def _assistant_spans(self, example: Conversation, text: str) -> list[tuple[int, int]]:
        """Where in `text` each trained assistant turn stands, its closing marks included."""
        spans = self._marked_spans(example, text, exactly=True)
        if spans is None:
            spans = self._grown_spans(example, text)
        if spans is None:
            spans = self._marked_spans(example, text, exactly=False)
        if spans is None:
            raise TemplateError(
                f"Row {example.row}: the chat template changes earlier turns when later ones follow, so its "
                "answers cannot be found exactly.",
                "Train on conversations of one exchange, or use another chat template.",
            )
        return spans

    def _grown_spans(self, example: Conversation, text: str) -> list[tuple[int, int]] | None:
        """Turn by turn, where the rendering only grows; None where later turns change it."""
        spans = []
        for place, message in enumerate(example.messages):
            if message.role != "assistant" or message.weight == 0:
                continue
            before = self.render(example.messages[:place], add_generation_prompt=True, tools=example.tools)
            through = self.render(example.messages[: place + 1], tools=example.tools)
            if not (text.startswith(through) and through.startswith(before)):
                return None
            spans.append((len(before), len(through)))
        return spans

    def _marked_spans(
        self, example: Conversation, text: str, *, exactly: bool
    ) -> list[tuple[int, int]] | None:
        """By one more rendering with a mark in place of each answer, its reasoning kept.

        What stands between the marks is the template's own, and is found again in `text`, in order.

        Parameters
        ----------
        exactly
            Give up (None) unless each answer stands there as it is, or without the space around it.
            Otherwise a part of it will do, for templates that strip more.
        """
        places = [n for n, message in enumerate(example.messages) if message.role == "assistant"]
        if exactly and any(example.messages[place].tool_calls for place in places):
            return None
        marked, answers = list(example.messages), []
        for number, place in enumerate(places):
            thought, tag, answer = marked[place].content.rpartition(_THOUGHT_ENDS)
            marked[place] = replace(marked[place], content=f"{thought}{tag}\ue000{number}\ue001")
            answers.append(answer)
        fixed, rest = [], self.render(marked, tools=example.tools)
        for number in range(len(places)):
            piece, mark, rest = rest.partition(f"\ue000{number}\ue001")
            if not mark:
                return None
            fixed.append(piece)
        fixed.append(rest)
        if not text.startswith(fixed[0]) or not text.endswith(fixed[-1]):
            return None
        eos, header = self.tokenizer.eos_token or "", self._header(example)
        if exactly and not (header and eos and all(eos in piece for piece in fixed[1:])):
            return None  # without header and EOS the bounds of a turn are not known from its answer alone
        at, spans = len(fixed[0]), []
        for number, (place, answer) in enumerate(zip(places, answers, strict=True)):
            before, after, last = fixed[number], fixed[number + 1], number == len(places) - 1
            end = len(text) - len(after) if last else _find(text, at, answer, after, exactly=exactly)
            said = text[at:end] if end >= at else None
            message = example.messages[place]
            if said is None or (
                said.strip() != answer.strip() if exactly else said.strip() not in message.content
            ):
                return None
            own = len(before) - (before.rfind(header) + len(header)) if header and header in before else 0
            closing = after.find(eos) + len(eos) if eos and eos in after else 0
            if message.weight:
                spans.append((at - own, end + closing))
            at = end + len(after)
        return spans

    def _header(self, example: Conversation) -> str:
        """What the template writes before a reply that is to come, or the end of that."""
        with_system = example.messages[0].role == "system"
        if with_system not in self._headers:
            user = Message("user", "?")
            asked = (Message("system", "?"), user) if with_system else (user,)
            plain, prompt = self.render(asked), self.render(asked, add_generation_prompt=True)
            shared = len(commonprefix([plain, prompt]))  # noqa: RUF071  text, not paths
            self._headers[with_system] = prompt[shared:]
        return self._headers[with_system]


def _tokens_between(encoding: Any, start: int, end: int, count: int) -> tuple[int, int]:
    """The first token that starts in characters [start, end), and the one after the last.

    `encoding` is a `tokenizers.Encoding`: asking it for the borders is faster than taking all offsets.
    """
    first = next((t for c in range(start, end) if (t := encoding.char_to_token(c)) is not None), None)
    last = next(
        (t for c in range(end - 1, start - 1, -1) if (t := encoding.char_to_token(c)) is not None), None
    )
    if first is None or last is None:
        return 0, 0
    if encoding.token_to_chars(first)[0] < start:
        first += 1
    after = last + 1
    # the bytes of one character may be several tokens, all with its offsets
    while after < count and (chars := encoding.token_to_chars(after)) is not None and chars[0] < end:
        after += 1
    return first, max(after, first)


def _find(text: str, at: int, answer: str, after: str, *, exactly: bool) -> int:
    """Where the answer that begins at `at` ends and `after` begins; -1 where that is not to be found."""
    if not exactly:
        return text.find(after, at)
    for said in (answer, answer.strip(), answer.lstrip(), answer.rstrip()):
        if text.startswith(said + after, at):
            return at + len(said)
    return -1


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
