"""One target under atheris: `python -m tests.fuzz.guided NAME -max_total_time=60`."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["ftkit"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until told to stop; atheris ends the process itself."""
    (target,) = [one for one in TARGETS if one.name == sys.argv[1]]

    def each(data: bytes) -> None:
        with contextlib.suppress(UnicodeDecodeError, ValueError):
            value = target.of_bytes(data)
        if "value" in locals():
            target(value)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], each)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
