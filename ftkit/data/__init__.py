"""Rows to tokens: sources, formats, the chat template, masks. Importing it loads no torch."""

from ftkit.data.dataset import Dataset, load
from ftkit.data.encode import Encoded, EncodedSet, encode, encode_all, preview_tokens
from ftkit.data.example import Conversation, Example, Message, PlainText, Refusal
from ftkit.data.starter import STARTER_SETS, StarterSet
from ftkit.data.template import Template

__all__ = [
    "STARTER_SETS",
    "Conversation",
    "Dataset",
    "Encoded",
    "EncodedSet",
    "Example",
    "Message",
    "PlainText",
    "Refusal",
    "StarterSet",
    "Template",
    "encode",
    "encode_all",
    "load",
    "preview_tokens",
]
