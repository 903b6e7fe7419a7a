"""Rows to tokens: sources, formats, the chat template, masks. Importing it loads no torch."""

from ftkit.data.dataset import Dataset, load
from ftkit.data.encode import Encoded, EncodedSet, encode, encode_all, preview_tokens
from ftkit.data.example import (
    Conversation,
    Example,
    LabelledText,
    Message,
    PlainText,
    PreferencePair,
    RatedReply,
    Refusal,
    SpanAnswer,
    TaggedTokens,
    as_conversation,
)
from ftkit.data.formats import FORMATS
from ftkit.data.messages import to_messages, write_messages
from ftkit.data.starter import STARTER_SETS, StarterSet
from ftkit.data.template import Template
from ftkit.recipe.rows import save_rows

__all__ = [
    "FORMATS",
    "STARTER_SETS",
    "Conversation",
    "Dataset",
    "Encoded",
    "EncodedSet",
    "Example",
    "LabelledText",
    "Message",
    "PlainText",
    "PreferencePair",
    "RatedReply",
    "Refusal",
    "SpanAnswer",
    "StarterSet",
    "TaggedTokens",
    "Template",
    "as_conversation",
    "encode",
    "encode_all",
    "load",
    "preview_tokens",
    "save_rows",
    "to_messages",
    "write_messages",
]
