"""Token ids to text as they come, never half a character. Knows nothing of models."""

from __future__ import annotations

from typing import Any

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Turns a growing list of ids into pieces of text whose sum is the decoded whole.

    A character of several bytes can be spread over several tokens, and some tokenizers drop the space at
    the start of what they decode. So a short tail is decoded again with each new token, and only what
    that adds is given out, once it no longer ends in an unfinished character.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer. Special tokens give no text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # the tail that is decoded again begins here
        self._read = 0  # the text of the ids before this one was given out

    def add(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        self._ids.append(token)
        text = self._new_text()
        if not text or text.endswith(_UNFINISHED):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return text

    def flush(self, *, cut_off: bool = False) -> str:
        """What was held back: call it once, at the end.

        Parameters
        ----------
        cut_off
            More was to come, so a character that is still unfinished is left out.
        """
        text = self._new_text()
        if cut_off:
            text = text.rstrip(_UNFINISHED)
        self._start = self._read = len(self._ids)
        return text

    def _new_text(self) -> str:
        given = self._decode(self._ids[self._start : self._read])
        return self._decode(self._ids[self._start :])[len(given) :]

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)
