"""Where each token begins in its text, for byte-level tokenizers, without asking the tokenizer for offsets.

A byte-level token stands for a fixed string of bytes, and the tokens of a text, laid end to end, are the
text. Adding up their sizes is therefore exact, and cheaper than offsets, which take a fifth of tokenising.
That the tokens are the text is checked for each; where they are not (a normalizer changed it), offsets are
needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

Span = tuple[int, int]


class ByteAlignment:
    """The bytes of every token of a vocabulary."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.sizes = np.array([len(piece) for piece in pieces], np.int64)

    @classmethod
    def of(cls, backend: Any) -> ByteAlignment | None:
        """For a `tokenizers.Tokenizer`; None where its tokens are not bytes."""
        if type(backend.decoder).__name__ != "ByteLevel":
            return None
        added = {number: token.content for number, token in backend.get_added_tokens_decoder().items()}
        vocabulary = backend.get_vocab(with_added_tokens=True)
        pieces = [b""] * (max(vocabulary.values(), default=-1) + 1)
        known = _bytes_of_characters()
        for token, number in vocabulary.items():
            if number in added:
                pieces[number] = added[number].encode()
            else:
                # a character that stands for no byte makes a token that never matches
                pieces[number] = bytes([known[one] for one in token if one in known])
        return cls(pieces)

    def between(
        self, text: str, ids: list[int], tokens: np.ndarray, spans: Sequence[Span]
    ) -> list[Span] | None:
        """The tokens of each span of characters: the first, and the one after the last.

        `tokens` are `ids` as an array.

        None where that is not certain: the tokens are not the text, one stands across a border, or white
        space stands at a border, which offsets may leave out of a token.
        """
        data = text.encode()
        if b"".join(map(self.pieces.__getitem__, ids)) != data:
            return None
        borders = np.array(list(itertools.chain(*spans)), np.int64)
        if len(data) != len(text):
            borders = np.array([len(text[:border].encode()) for border in borders], np.int64)
        starts = np.concatenate([[0], np.cumsum(self.sizes[tokens])])
        at = np.searchsorted(starts, borders)
        if (starts[at] != borders).any():
            return None
        found = list(zip(at[::2].tolist(), at[1::2].tolist(), strict=True))
        for first, after in found:
            edges = (self.pieces[ids[first]], self.pieces[ids[after - 1]]) if after > first else (b"",)
            if not all(edge.strip() for edge in edges):
                return None
        return found


def _bytes_of_characters() -> dict[str, int]:
    """The printable character that stands for each byte (Radford et al. 2019, GPT-2), reversed."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in set(shown))
    return {chr(byte): byte for byte in shown} | {chr(256 + n): byte for n, byte in enumerate(others)}
