"""Rows to tokens, a chunk at a time: rendering overlaps with tokenising, and very many rows go to processes.

Rendering a template is Python and takes one core; the tokenizer is native code that takes the others
meanwhile. Only where there is work for many seconds, and cores that would stand idle, are processes worth
their start.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ftkit.data.encode import CHUNK, SAME, UNTRAINED, over_the_limit, usable
from ftkit.data.encoded import Chunk, Encoded, Limits
from ftkit.data.example import Conversation, Example, PlainText, Refusal
from ftkit.data.sides import together, train_on
from ftkit.data.workers import WorkerError, Workers

if TYPE_CHECKING:
    from ftkit.data.template import Prepared, Template
    from ftkit.errors import TemplateError

Rows = Sequence[Conversation | PlainText]

WORTH_PROCESSES = 20.0
"""Seconds of work that must be left: a process needs about three until it has loaded its libraries."""
MOST_PROCESSES = 8
Progress = Callable[[str, float | None], None]


def encode_chunk(examples: Sequence[Example], template: Template, limits: Limits) -> Chunk:
    """One chunk.

    Raises
    ------
    DataError
        When a row is too long and that is an error.
    """
    refused: list[Refusal] = []
    chunk = encode_usable(usable(examples, template, limits, refused), template, limits)
    chunk.refused = refused + chunk.refused
    return chunk


def encode_usable(chosen: Rows, template: Template, limits: Limits) -> Chunk:
    """What `usable` has found, as one chunk.

    Raises
    ------
    DataError
        When a row is too long and that is an error.
    """
    found = template.encode_many(chosen, train_on(limits.objective))
    return _finished(Chunk(), chosen, found, template, limits)


def encode_chunks(
    examples: Sequence[Example],
    template: Template,
    limits: Limits,
    progress: Progress | None = None,
    processes: int | None = None,
    text: str = "Turning the rows into tokens",
) -> Iterator[Chunk]:
    """All examples, chunk by chunk, in order.

    Parameters
    ----------
    progress
        Told how far it is; may raise to end it.
    processes
        How many to use. None: decided by how long it takes; 1: this one alone.
    text
        What `progress` is told.
    """

    def tell() -> None:
        if progress is not None:
            progress(text, done * CHUNK / len(examples))

    done, begun, count = 0, time.perf_counter(), processes or 1
    first: Chunk | None = None
    tell()
    with contextlib.closing(_in_this_process(examples, template, limits)) as chunks:
        for chunk in chunks:
            first = first or chunk
            yield chunk
            done += 1
            tell()
            left = len(examples) - done * CHUNK
            if processes is None:
                count = _worthwhile((time.perf_counter() - begun) / done / CHUNK * left)
            if count > 1 and left > 0:
                break
    if count == 1 or first is None:
        return
    with contextlib.suppress(WorkerError):
        for chunk in _in_processes(examples, done, first, template, limits, count, tell):
            yield chunk
            done += 1
            tell()
    for chunk in _in_this_process(examples[done * CHUNK :], template, limits):  # what a lost worker left
        yield chunk
        done += 1
        tell()


def _in_this_process(
    examples: Sequence[Example], template: Template, limits: Limits
) -> Generator[Chunk, None, None]:
    """Each chunk is tokenised in a thread while the next one is rendered."""
    if len(examples) <= CHUNK:
        if examples:
            yield encode_chunk(examples, template, limits)
        return
    with ThreadPoolExecutor(1, "ftkit-tokens") as pool:
        ahead: Callable[[], Chunk] | None = None
        for part in _parts(examples):
            chunk = Chunk()
            chosen = usable(part, template, limits, chunk.refused)
            prepared = template.prepare(chosen)
            tokens = pool.submit(template.tokenise, prepared)
            if ahead is not None:
                yield ahead()
            ahead = functools.partial(_joined, chunk, chosen, prepared, tokens, template, limits)
        if ahead is not None:
            yield ahead()


def _joined(
    chunk: Chunk,
    chosen: Rows,
    prepared: list[Prepared],
    tokens: Future[Any],
    template: Template,
    limits: Limits,
) -> Chunk:
    found = template.masked(prepared, tokens.result(), train_on(limits.objective))
    return _finished(chunk, chosen, found, template, limits)


def _in_processes(
    examples: Sequence[Example],
    done: int,
    first: Chunk,
    template: Template,
    limits: Limits,
    count: int,
    tell: Callable[[], None],
) -> Iterator[Chunk]:
    """The chunks after the first `done`.

    Raises
    ------
    WorkerError
        When a worker fails, or gives other tokens for the first chunk than this process did.
    """
    unusable: deque[list[Refusal]] = deque()

    def tasks() -> Iterator[Rows]:
        for part in [examples[:CHUNK], *_parts(examples[done * CHUNK :])]:
            refused: list[Refusal] = []
            unusable.append(refused)
            yield usable(part, template, limits, refused)

    with Workers(count, template, limits) as workers:
        for place, chunk in enumerate(workers.encode(tasks(), tell)):
            chunk.refused = unusable.popleft() + chunk.refused
            if place:
                yield chunk
            elif not _same(chunk, first):
                raise WorkerError("a worker makes other tokens of the same rows")


def _finished(
    chunk: Chunk,
    chosen: Rows,
    found: Sequence[Encoded | TemplateError],
    template: Template,
    limits: Limits,
) -> Chunk:
    """The texts that belong together are kept together, or refused together."""
    step = together(limits.objective)
    for at in range(0, len(chosen), step):
        texts, group = chosen[at : at + step], found[at : at + step]
        encoded = [one for one in group if isinstance(one, Encoded)]
        if len(encoded) < len(group):
            wrong = next(one.message for one in group if not isinstance(one, Encoded))
            chunk.refused.append(Refusal(texts[0].row, wrong))
        elif max(len(one.ids) for one in encoded) > limits.max_length:
            parts = over_the_limit(texts, encoded, template, limits, chunk.refused)
            chunk.shortened += [texts[0].row] if parts else []
            chunk.rows += parts
        elif limits.objective.reads != "prompts" and not all(one.mask[1:].any() for one in encoded):
            chunk.refused.append(Refusal(texts[0].row, UNTRAINED))
        elif step > 1 and np.array_equal(encoded[0].ids, encoded[1].ids):
            chunk.refused.append(Refusal(texts[0].row, SAME))
        else:
            chunk.rows += encoded
    return chunk


def _parts(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    for at in range(0, len(examples), CHUNK):
        yield examples[at : at + CHUNK]


def _worthwhile(seconds: float) -> int:
    """How many processes to use for so much work; two cores are busy without any."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_PROCESSES) if seconds > WORTH_PROCESSES and cores > 2 else 1


def _same(one: Chunk, other: Chunk) -> bool:
    return (one.refused, one.shortened) == (other.refused, other.shortened) and all(
        a.row == b.row and np.array_equal(a.ids, b.ids) and np.array_equal(a.mask, b.mask)
        for a, b in itertools.zip_longest(
            one.rows, other.rows, fillvalue=Encoded(np.empty(0), np.empty(0), -1)
        )
    )
