"""The process that `ftkit.data.workers` starts: chunks of rows in, their tokens out, until its input ends.

It holds a tokenizer and a template, nothing else, and ends with the process that started it.
"""

from __future__ import annotations

import os
import signal
import sys

from ftkit.data.chunks import encode_usable
from ftkit.data.wire import example_of, prepare, receive, send, send_chunk
from ftkit.errors import DataError


def main() -> None:
    """Serve chunks from standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    settings = receive(sys.stdin.buffer)
    if settings is None:
        return
    template, limits = prepare(settings)
    while (task := receive(sys.stdin.buffer)) is not None:
        try:
            chunk = encode_usable([example_of(row) for row in task["rows"]], template, limits)
        except DataError as error:
            send(answers, {"error": [error.message, error.advice]})
        else:
            send_chunk(answers, chunk)


if __name__ == "__main__":
    main()
