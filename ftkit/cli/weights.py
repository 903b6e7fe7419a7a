"""`ftkit convert-weights`: pickled weights as safetensors."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from ftkit.cli.console import err, out, printable


def convert_weights(folder: Path, target: Path) -> int:
    """Convert, and say what to do with the result.

    Raises
    ------
    ModelError
        When the weights cannot be converted.
    """
    from ftkit.models import convert_weights as convert

    with err.status("Converting") as status:
        written = convert(folder, target, lambda text, _: status.update(escape(printable(text))))
    name = escape(printable(str(written)))
    out.print(f"Written to {name}. Use it as a model: model.source: {name}")
    return 0
