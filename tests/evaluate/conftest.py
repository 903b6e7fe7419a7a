"""The tiny models of the chat tests serve here, too."""

from tests.chat.conftest import fully_trained, loaded, run_of, tiny

__all__ = ["fully_trained", "loaded", "run_of", "tiny"]
