"""Models to begin with: a short list for the Model panel. Any other Hub id works as well."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CatalogEntry:
    """A model that people may want to start from.

    Attributes
    ----------
    source
        What goes into `model.source`.
    title
        Its name.
    parameters
        In millions.
    about
        A line on what it is good for.
    licence
        The licence's name.
    gated
        Whether its makers ask you to accept terms on the Hub first (it needs an account and a token).
    """

    source: str
    title: str
    parameters: int
    about: str
    licence: str
    gated: bool = False


CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        "starter",
        "Starter: SmolLM2 135M Instruct",
        135,
        "Fetched by ftkit itself, no account needed. Learns narrow tasks on a plain processor in minutes.",
        "Apache-2.0",
    ),
    CatalogEntry(
        "google/gemma-3-270m-it",
        "Gemma 3 270M Instruct",
        268,
        "Small, with a very large vocabulary: many languages. Made for narrow tasks.",
        "Gemma terms",
        gated=True,
    ),
    CatalogEntry(
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        "SmolLM2 360M Instruct",
        362,
        "The starter's larger sister: better replies, about three times the time. English.",
        "Apache-2.0",
    ),
    CatalogEntry(
        "Qwen/Qwen2.5-0.5B-Instruct",
        "Qwen2.5 0.5B Instruct",
        494,
        "Many languages, code and structured output; the largest that is pleasant on a plain processor.",
        "Apache-2.0",
    ),
    CatalogEntry(
        "meta-llama/Llama-3.2-1B-Instruct",
        "Llama 3.2 1B Instruct",
        1_236,
        "A solid general model. For a GPU, or a processor and patience.",
        "Llama 3.2 community licence",
        gated=True,
    ),
    CatalogEntry(
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        "SmolLM2 1.7B Instruct",
        1_711,
        "The largest SmolLM2: good English replies. For a GPU.",
        "Apache-2.0",
    ),
)
"""From small to large."""
