"""How the benchmarks write a figure that was taken several times."""

from __future__ import annotations

import statistics


def spread(values: list[float], digits: int = 2) -> str:
    """Median, with the smallest and the largest."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
