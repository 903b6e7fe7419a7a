"""The tokenizer's own chat template: the one truth for training, preview, chat and evaluation."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ftkit.data.alignment import ByteAlignment
from ftkit.data.encoded import Encoded
from ftkit.data.example import Conversation, Message, PlainText
from ftkit.data.sandbox import compiled
from ftkit.data.spans import AnswerFinder, Span
from ftkit.errors import TemplateError
from ftkit.folders import named
from ftkit.recipe.schema import TEMPLATES as NAMED

_PROBE = {"type": "function", "id": "abcdefghi", "function": {"name": "ftkit_probe", "arguments": {}}}
_FOLDER = Path(__file__).with_name("templates")
_MANY = 32
"""Texts at once for which it is worth knowing every token's bytes."""
_MARGIN = 4
"""A tokenizer may drop characters, or make one token of an unknown word."""
_SAID = 300
"""Characters of what a template says when it fails: its text is as free as its program."""


@dataclass
class Prepared:
    """A row that is about to become tokens: its text, where its answers stand, or what is wrong with it."""

    row: int
    conversation: bool
    label: int = -1
    text: str = ""
    spans: list[tuple[int, int]] = field(default_factory=list)
    error: TemplateError | None = None


class Template:
    """Renders and encodes conversations with a tokenizer's chat template (in `ftkit.data.sandbox`).

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
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {number: token.content for number, token in added.items() if token.special}
        self._calls_shown: bool | None = None
        self._in_parts: bool | None = None
        self._finder = AnswerFinder(self.render, tokenizer.eos_token or "", self._special.values())
        self._bare: bool | None = None
        self._longest_token: int | None = None
        self._alignment: ByteAlignment | Literal[False] | None = False

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

    def most_characters(self, tokens: int) -> int:
        """A text of more characters has more than `tokens` tokens, by a wide margin."""
        if self._longest_token is None:
            self._longest_token = max(map(len, self.tokenizer.get_vocab()), default=1)
        return tokens * self._longest_token * _MARGIN

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
        self._wants_parts()
        return self._apply(
            self._turns(messages), tools=list(tools) or None, add_generation_prompt=add_generation_prompt
        )

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the conversation and the header of the reply to come."""
        text = self.render(messages, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def end_ids(self) -> frozenset[int]:
        """Ids of the tokens that end a reply: the EOS, and special tokens that the template writes there."""
        try:
            text = self._finder.closing()
        except TemplateError:  # plain text needs no template
            text = ""
        closing = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        eos = self.tokenizer.eos_token_id
        return frozenset(token for token in closing if token in self._special) | (
            {eos} if eos is not None else set()
        )

    def encode(self, example: Conversation | PlainText, train_on: str = "assistant") -> Encoded:
        """Token ids and the mask of trained tokens.

        The whole is tokenised once, so the ids are those of `apply_chat_template`; a token is trained when it
        starts inside an assistant turn, what ends the turn included.

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
        prepared = self.prepare(examples)
        return self.masked(prepared, self.tokenise(prepared), train_on)

    def prepare(self, examples: Sequence[Conversation | PlainText]) -> list[Prepared]:
        """Each example rendered, and where its answers stand, or the error."""
        prepared = []
        rendered = self._rendered_together([one for one in examples if isinstance(one, Conversation)])
        for example in examples:
            one = Prepared(example.row, isinstance(example, Conversation), getattr(example, "rated", -1))
            try:
                if isinstance(example, PlainText):
                    one.text = example.text
                else:
                    one.text = next(rendered) or self.render(
                        example.messages, example.unanswered, example.tools
                    )
                    one.spans = [] if example.unanswered else self._assistant_spans(example, one.text)
            except TemplateError as error:
                one.error = error
            prepared.append(one)
        return prepared

    def tokenise(self, prepared: Sequence[Prepared]) -> list[Any]:
        """The `tokenizers.Encoding` of each, together, on all cores; None where there was an error."""
        found: list[Any] = [None] * len(prepared)
        for conversations in (True, False):
            chosen = [
                place
                for place, one in enumerate(prepared)
                if one.error is None and one.conversation == conversations
            ]
            if chosen:
                texts = [prepared[place].text for place in chosen]
                for place, one in zip(chosen, self._encodings(texts, not conversations), strict=True):
                    found[place] = one
        return found

    def masked(
        self, prepared: Sequence[Prepared], encodings: Sequence[Any], train_on: str
    ) -> list[Encoded | TemplateError]:
        """Each example as tokens with its mask, or the error."""
        found: list[Encoded | TemplateError] = []
        for one, encoding in zip(prepared, encodings, strict=True):
            if one.error is not None:
                found.append(one.error)
            elif one.conversation:
                found.append(self._masked(one, encoding, train_on))
            else:
                ids = np.array([*encoding.ids, self.tokenizer.eos_token_id], np.int32)
                found.append(Encoded(ids, np.ones(len(ids), bool), one.row))
        return found

    def _encodings(self, texts: list[str], add_special_tokens: bool) -> Sequence[Any]:
        """By the native tokenizer itself, where that agrees: what is around it takes as long again.

        Without offsets where there are many and they are not needed.
        """
        backend = self.tokenizer.backend_tokenizer
        if self._bare is None:
            wrapped = self.tokenizer(texts[:4], add_special_tokens=add_special_tokens)
            bare = backend.encode_batch(texts[:4], add_special_tokens=add_special_tokens)
            self._bare = wrapped["input_ids"] == [one.ids for one in bare]
        if not self._bare:
            return self.tokenizer(texts, add_special_tokens=add_special_tokens).encodings
        backend.no_padding()
        backend.no_truncation()
        if self._alignment is False and len(texts) >= _MANY:
            self._alignment = ByteAlignment.of(backend)
        without_offsets = bool(self._alignment) and len(texts) >= _MANY
        encode = backend.encode_batch_fast if without_offsets else backend.encode_batch
        return encode(texts, add_special_tokens=add_special_tokens)

    def _rendered_together(self, examples: Sequence[Conversation]) -> Iterator[str]:
        """Each conversation as text, in one call; empty where it has to be rendered by itself."""
        alike = [
            place
            for place, example in enumerate(examples)
            if example.messages and not (example.tools or example.unanswered)
        ]
        texts = [""] * len(examples)
        if len(alike) > 1:
            with contextlib.suppress(Exception):  # one of them cannot be rendered: which, is found out singly
                self._wants_parts()
                for place in alike:
                    texts[place] = self._rendered(self._turns(examples[place].messages))
        return iter(texts)

    def _turns(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages as the template gets them."""
        turns = [message.as_dict() for message in self._known(messages)]
        if self.system_prompt is not None and (not turns or turns[0]["role"] != "system"):
            turns.insert(0, {"role": "system", "content": self.system_prompt})
        return turns

    def _masked(self, one: Prepared, encoding: Any, train_on: str) -> Encoded:
        """Tokens with those trained that start inside a span; an EOS follows the last where it has none."""
        eos, ids = self.tokenizer.eos_token_id, encoding.ids
        tokens = np.array(ids, np.int32)
        mask = np.zeros(len(ids), bool)
        spans = one.spans[-1:] if train_on == "last" else one.spans
        for first, after in self._borders(one.text, ids, tokens, spans, encoding):
            mask[first:after] = True
        if mask.any() and ids[-1] != eos and eos not in ids[np.flatnonzero(mask)[-1] :]:
            tokens, mask = np.append(tokens, np.int32(eos)), np.append(mask, True)
        if train_on == "all":
            mask = np.ones(len(tokens), bool)
        return Encoded(tokens, mask, one.row, one.label)

    def _borders(
        self, text: str, ids: list[int], tokens: np.ndarray, spans: Sequence[Span], encoding: Any
    ) -> list[Span]:
        """The tokens of each span, by their bytes, or by their offsets."""
        if self._alignment:
            found = self._alignment.between(text, ids, tokens, spans)
            if found is not None:
                return found
            encoding = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        return [_tokens_between(encoding, start, end, len(ids)) for start, end in spans]

    def _assistant_spans(self, example: Conversation, text: str) -> list[tuple[int, int]]:
        """Where in `text` each trained assistant turn stands, its closing marks included."""
        known = self._known(example.messages)
        return self._finder.spans(
            example if known is example.messages else replace(example, messages=known), text
        )

    def _known(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages with tool calls written out as text where the template knows none."""
        if not any(message.tool_calls for message in messages) or self._knows_calls():
            return tuple(messages)
        return tuple(map(_written_out, messages))

    def _knows_calls(self) -> bool:
        """Whether a tool call stands in what the template writes; some drop one that says nothing else."""
        if self._calls_shown is None:
            turns = [Message("user", "?").as_dict(), Message("assistant", "", (_PROBE,)).as_dict()]
            try:
                text = self._apply(turns) if "tool_calls" in self.source else ""
                self._calls_shown = "ftkit_probe" in text
            except TemplateError:  # it wants more than that; the rows themselves will tell
                self._calls_shown = True
        return self._calls_shown

    def _wants_parts(self) -> bool:
        """Whether a message's text must be a list of parts: some templates that know images drop other text.

        Raises
        ------
        TemplateError
            When the template writes the text of a message in neither form.
        """
        if self._in_parts is None:
            error = TemplateError("The chat template leaves out what the messages say.", "Use another one.")
            for in_parts in (False, True):
                self._in_parts = in_parts
                try:
                    if "ftkit_probe" in self._apply([Message("user", "ftkit_probe").as_dict()]):
                        return in_parts
                except TemplateError as found:
                    error = found
            self._in_parts = None
            raise error
        return self._in_parts

    def _shaped(self, turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not self._in_parts:
            return turns
        return [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in turns]

    def _apply(self, turns: list[dict[str, Any]], **settings: Any) -> str:
        try:
            return self._rendered(turns, **settings)
        except TemplateError:
            raise
        except Exception as error:
            said = str(error)[:_SAID] or type(error).__name__
            raise TemplateError(
                f"The chat template cannot render this conversation: {said}",
                "Choose another one in data.template, or leave the row out.",
            ) from error

    def _rendered(self, turns: list[dict[str, Any]], **settings: Any) -> str:
        """What the template makes of the turns, within its limits of time and memory."""
        if not turns:
            raise TemplateError("There is no message to render.", "Give at least one.")
        tools = settings.pop("tools", None)
        if tools is not None and not all(isinstance(tool, Mapping) for tool in tools):
            raise TemplateError("A tool is not described by an object.", "Write it as JSON schema.")
        values = {**self.tokenizer.special_tokens_map, "tools": tools, "documents": None}
        values["add_generation_prompt"] = settings.pop("add_generation_prompt", False)
        return compiled(self.source).render(self._shaped(turns), **values, **settings)


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


def _read_template(name: str) -> str:
    path = _FOLDER / f"{name}.jinja" if name in NAMED else named(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise TemplateError(
            f"There is no chat template {name!r}.", f"Known: {', '.join(NAMED)}; or the path of a Jinja file."
        ) from None


def _written_out(message: Message) -> Message:
    """A message without tool calls: each stands as JSON in the text."""
    if not message.tool_calls:
        return message
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.tool_calls]
    return replace(message, content="\n".join(filter(None, (message.content, *calls))), tool_calls=())
