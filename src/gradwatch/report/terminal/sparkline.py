"""A curve in one line of block characters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Values that differ by more than this factor are wide.
WIDE = 30.0


class Ramp(NamedTuple):
    """The characters for the levels from low to high, and for what is not finite."""

    levels: str
    bad: str


BLOCKS = Ramp("▁▂▃▄▅▆▇█", "!")
ASCII = Ramp("_.-=+*#@", "!")


def sparkline(
    step: np.ndarray,
    value: np.ndarray,
    width: int,
    *,
    bad: np.ndarray | None = None,
    log: bool = False,
    ramp: Ramp = BLOCKS,
) -> str:
    """Return a curve over the steps in ``width`` characters at most.

    Columns are ranges of steps, so that a log whose old records were thinned is not drawn out of proportion. Each
    shows the largest value that falls into it, so that a spike of one step stays visible; a column in which nothing
    was recorded shows what came before.

    Args:
        step: where the values are, shape [n], ascending.
        value: the values, NaN where they are not known.
        width: how many characters there are.
        bad: where the value was NaN or infinite, beyond the infinities in ``value``.
        log: whether levels are equal factors; the values are positive.
        ramp: the characters.
    """
    bad = np.isinf(value) if bad is None else bad | np.isinf(value)
    width = min(width, len(step))
    if width < 1:
        return ""
    column = _columns(step, width)
    finite = np.where(np.isinf(value), np.nan, value)
    level = _levels(np.log(finite) if log else finite, len(ramp.levels))
    highest = np.full(width, -1)
    np.maximum.at(highest, column, level)
    is_bad = np.zeros(width, dtype=bool)
    is_bad[column[bad]] = True
    filled = np.zeros(width, dtype=bool)
    filled[column] = True
    text, before = [], " "
    for at in range(width):
        if filled[at]:
            before = ramp.levels[highest[at]] if highest[at] >= 0 else " "
        text.append(ramp.bad if is_bad[at] else before)
    return "".join(text)


def is_wide(value: np.ndarray) -> bool:
    """Whether a curve is positive and so wide that a linear scale would show its largest values alone."""
    finite = value[np.isfinite(value)]
    return bool(finite.size) and finite.min() > 0 and finite.max() / WIDE > finite.min()


def _columns(step: np.ndarray, width: int) -> np.ndarray:
    first, last = float(step.min()), float(step.max())
    if last <= first:
        return np.arange(len(step)) * width // len(step)
    column: np.ndarray = np.minimum((step - first) / (last - first) * width, width - 1).astype(np.intp)
    return column


def _levels(height: np.ndarray, levels: int) -> np.ndarray:
    """Return the level of each value from 0 to ``levels - 1``, -1 where it is not known; a flat curve is low."""
    known = ~np.isnan(height)
    if not known.any():
        return np.full(len(height), -1)
    # To the order of one first: differences at the ends of the range of floats are infinite, or nothing.
    height = np.ldexp(height, -np.frexp(np.abs(height[known]).max())[1])
    low, high = height[known].min(), height[known].max()
    share = (height - low) / (high - low) if high > low else np.zeros(len(height))
    return np.where(known, np.minimum(np.nan_to_num(share) * levels, levels - 1), -1).astype(np.intp)
