"""The few errors ftkit raises on purpose. Each says what is wrong, where, and what to do."""

from __future__ import annotations

from ftkit.redact import redact


class FtkitError(Exception):
    """Base of all errors that ftkit raises on purpose.

    Parameters
    ----------
    message
        What is wrong and where (row, field, file).
    advice
        What the person can do about it.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        self.message: str = redact(message)
        self.advice: str = redact(advice)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.advice}" if self.advice else self.message


class RecipeError(FtkitError, ValueError):
    """A Recipe that cannot be: an unknown key, a wrong value, a combination that makes no sense."""


class DataError(FtkitError):
    """A dataset that cannot be read or cannot be trained on."""


class FormatError(DataError):
    """Rows whose format is not recognised, or not the one asked for; `found` are their columns."""

    def __init__(self, message: str, advice: str = "", found: tuple[str, ...] = ()) -> None:
        super().__init__(message, advice)
        self.found = found


class TemplateError(DataError):
    """A chat template that is missing or cannot render a conversation."""


class ModelError(FtkitError):
    """A model that cannot be found, fetched or loaded."""


class RunError(FtkitError):
    """A run that cannot start, or one that failed. `run.wait()` raises it."""
