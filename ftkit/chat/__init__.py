"""Talking to a model: replies token by token, and conversations. Importing it does not load torch."""

from ftkit.chat.engine import Piece, Sampling, generate, stream
from ftkit.chat.session import ChatSession, Reply

__all__ = ["ChatSession", "Piece", "Reply", "Sampling", "generate", "stream"]
