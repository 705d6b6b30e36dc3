"""Numbers of several seeds, and tables of them in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table: its head, and rows of as many cells."""
    return '\n'.join(f'| {" | ".join(row)} |' for row in [head, ['---'] * len(head), *rows])


def with_spread(values: Sequence[float]) -> str:
    """The mean, and behind ± the standard deviation where there is more than one value."""
    return _with(values, '.2f', 1.0)


def with_error(values: Sequence[float]) -> str:
    """The mean with its sign, and behind ± its standard error where there is more than one value."""
    return _with(values, '+.2f', len(values) ** -0.5)


def _with(values: Sequence[float], form: str, factor: float) -> str:
    mean = f'{statistics.mean(values):{form}}'
    return mean if len(values) < 2 else f'{mean} ± {factor * statistics.stdev(values):.2f}'
