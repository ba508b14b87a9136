"""Two groups of curves window by window: the t statistic of the runs' medians, and where it is beyond a limit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.report.compare.arrays import quietly
from gradwatch.report.compare.smoothing import in_bins, running_median
from gradwatch.report.compare.student import limit

if TYPE_CHECKING:
    from gradwatch.report.compare.arrays import Floats

WINDOWS = 16  # a window is a sixteenth of the curve: more would find the place better and small differences worse
MOST_POINTS = 512  # more records than these are put into bins first; the place is then found among the records again
# Spreads below a millionth are taken for one: seeds that agree to the last digit do not make rounding a difference.
LEAST_SPREAD = 1e-6


class Windows:
    """All windows of two groups of curves, arrays [runs, records] over the same records; NaN where a run has no value.

    A window has ``width`` bins of ``bin`` records and begins at every bin. ``difference`` is that of the means of the
    runs' medians in it, ``error`` its standard error.
    """

    @quietly
    def __init__(self, one: Floats, other: Floats) -> None:
        self.one, self.other = one, other
        self.records: int = one.shape[-1]
        self.bin: int = math.ceil(self.records / MOST_POINTS)
        a, b = in_bins(one, self.bin), in_bins(other, self.bin)
        self.width: int = max(1, math.ceil(a.shape[-1] / WINDOWS))
        # Windows that share no record, and the last one: what the chance of a mistake adds up over.
        self.tests: int = a.shape[-1] // self.width + 1
        self.difference, self.error, self.df = _statistic(running_median(a, self.width), running_median(b, self.width))

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self.difference)

    @quietly
    def visible(self, level: float) -> Floats:
        """Return the differences beyond which |t| has the probability ``level``; NaN where runs are too few."""
        freedoms, places = np.unique(self.df, return_inverse=True)
        limits: Floats = np.array([limit(level, int(freedom)) for freedom in freedoms])[places] * self.error
        return limits

    def directions(self, level: float) -> Floats:
        """Return 1 or -1 where the groups differ beyond the limit for ``level``, else 0."""
        return np.where(np.abs(self.difference) > self.visible(level), np.sign(self.difference), 0.0)

    def runs(self, level: float, least: int) -> list[Run]:
        """Return windows in a row that differ in one direction: ``least`` of them, or any that reach the end."""
        directions = self.directions(level)
        ends = np.flatnonzero(np.diff(directions, append=np.nan) != 0)
        starts = np.concatenate([[0], ends[:-1] + 1])
        counted = (directions[starts] != 0) & ((ends - starts + 1 >= least) | (ends == len(directions) - 1))
        return [
            Run(int(start), int(end), int(directions[start]))
            for start, end in zip(starts[counted], ends[counted], strict=True)
        ]

    def part(self, records: slice) -> Windows:
        """Return the windows, which are smaller, of some of the records alone."""
        return Windows(self.one[:, records], self.other[:, records])


class Run(NamedTuple):
    """Windows in a row, from ``start`` to ``end``, in which the first group is larger (sign 1) or smaller (-1)."""

    start: int
    end: int
    sign: int


def _statistic(a: Floats, b: Floats) -> tuple[Floats, Floats, Floats]:
    """Return difference of the means, its standard error and the degrees of freedom, window by window."""
    count_a, mean_a, squares_a = _moments(a)
    count_b, mean_b, squares_b = _moments(b)
    both = (count_a > 0) & (count_b > 0)
    df = np.where(both, count_a + count_b - 2, 0)
    spread = np.sqrt((squares_a + squares_b) / df)
    error = np.maximum(spread, LEAST_SPREAD) * np.sqrt(1 / count_a + 1 / count_b)
    return mean_a - mean_b, error, df


def _moments(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return how many runs are known, their mean and the sum of their squared deviations from it."""
    known = ~np.isnan(values)
    count = np.count_nonzero(known, axis=0).astype(float)
    mean = np.where(known, values, 0.0).sum(axis=0) / count
    squares = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0)
    return count, mean, squares
