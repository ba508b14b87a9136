r"""Where two groups of curves part: beyond what the spread of their runs explains, and not for a moment only.

Each run is one observation, however many records it has: neighbouring records of a training resemble each other, but
runs with different seeds are independent. So a window of w records is reduced to one number a run, its median, and two
groups are compared there by the two-sample t statistic

.. math:: t = \frac{\bar a - \bar b}{s \sqrt{1 / n_a + 1 / n_b}}, \quad
          s^2 = \frac{\sum (a_i - \bar a)^2 + \sum (b_i - \bar b)^2}{n_a + n_b - 2}

which for two groups of one setting follows Student's distribution whatever the correlation within a run. Windows
begin at every record, and a difference counts when w windows in a row exceed the limit in the same direction (or all
to the last one). Any w windows in a row include one that begins at a multiple of w, so the chance that two groups of
one setting are told apart anywhere on the curve is at most the sum over those windows alone, and the last: with K of
them and the limit at level / K, at most ``level`` (Bonferroni). ``docs/compare.md`` has the derivation and the
measured rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
# How often the place of a difference that is real may be put too early.
PLACE_LEVEL = 0.05


class Stretch(NamedTuple):
    """Records over which two groups differ: from ``first``, in one direction, to ``last`` (None: to the end)."""

    first: int
    last: int | None
    sign: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What two groups of curves have in common.

    ``stretches`` are in order of time. ``resolution`` is the difference of the means that would just have been seen,
    typically (median over the windows): infinite where there are too few runs to tell anything. ``window`` is the
    number of records that it was looked at together.
    """

    stretches: tuple[Stretch, ...]
    resolution: float
    window: int

    @property
    def parted(self) -> Stretch | None:
        """The first stretch over which they differ, if any."""
        return self.stretches[0] if self.stretches else None


@quietly
def compare_groups(one: Floats, other: Floats, level: float) -> Verdict:
    """Compare two groups of curves, arrays [runs, records] over the same records.

    Args:
        one: the curves of a group; NaN where a run has no value.
        other: those of the other group.
        level: how often two groups of one setting may be told apart by mistake.
    """
    if not one.shape[-1]:
        return Verdict(stretches=(), resolution=math.inf, window=0)
    scan = _scan(one, other, level)
    found = [
        Stretch(_place(one, other, scan, start), scan.last_record(end), int(scan.direction[start]))
        for start, end in scan.runs(scan.width)
    ]
    return Verdict(stretches=tuple(found), resolution=scan.resolution, window=scan.width * scan.bin)


class _Scan(NamedTuple):
    """All windows of a curve, by where each begins, in bins of records.

    ``direction`` is 1 or -1 where the groups differ beyond the limit, else 0; ``leaning`` is the same for a limit that
    one window alone would have.
    """

    direction: Floats
    leaning: Floats
    resolution: float
    width: int
    bin: int
    records: int

    def runs(self, least: int) -> list[tuple[int, int]]:
        """Return first and last window of each difference: ``least`` windows in a row, or all that reach the end.

        Once the groups have parted they are together again when, for as long as a window, not even one window alone
        would tell them apart: else a difference near the limit would come and go.
        """
        ends = np.flatnonzero(np.diff(self.direction, append=np.nan) != 0)
        starts = np.concatenate([[0], ends[:-1] + 1])
        last = len(self.direction) - 1
        found: list[tuple[int, int]] = []
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            inside = found and start <= found[-1][1]
            if self.direction[start] and not inside and (end - start + 1 >= least or end == last):
                found.append((start, self._together_again(start, end)))
        return found

    def _together_again(self, start: int, end: int) -> int:
        """Return the last window of a difference that begins at ``start`` and is beyond the limit until ``end``."""
        like = end + 1 + np.flatnonzero(self.leaning[end + 1 :] == self.direction[start])
        for window in like.tolist():
            if window - end > self.width:
                break
            end = window
        return end

    def last_record(self, window: int) -> int | None:
        """Return the first record of the last window that shows a difference; None if that reaches the end."""
        return None if window == len(self.direction) - 1 else window * self.bin


def _scan(one: Floats, other: Floats, level: float) -> _Scan:
    records = one.shape[-1]
    size = math.ceil(records / MOST_POINTS)
    a, b = in_bins(one, size), in_bins(other, size)
    width = max(1, math.ceil(a.shape[-1] / WINDOWS))
    tests = a.shape[-1] // width + 1
    difference, error, df = _statistic(running_median(a, width), running_median(b, width))
    limits = np.array([limit(level / tests, int(freedom)) for freedom in df])
    seen = limits * error
    alone = np.array([limit(level, int(freedom)) for freedom in df]) * error
    return _Scan(
        direction=np.where(np.abs(difference) > seen, np.sign(difference), 0.0),
        leaning=np.where(np.abs(difference) > alone, np.sign(difference), 0.0),
        resolution=float(np.median(np.where(np.isnan(seen), np.inf, seen))),
        width=width,
        bin=size,
        records=records,
    )


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


def _place(one: Floats, other: Floats, scan: _Scan, window: int) -> int:
    """Return the first record from which the groups differ, given the first window in which they do.

    At the end of that window the evidence is there at the latest. Often it is there before: the same is asked again,
    in smaller windows, of the records of this window and the next alone.
    """
    start, width = window * scan.bin, scan.width * scan.bin
    latest = min(start + width, scan.records) - 1
    part = slice(start, start + 2 * width)
    if width == 1:
        return latest
    closer = _scan(one[:, part], other[:, part], PLACE_LEVEL)
    for first, _ in closer.runs(max(closer.width, 3)):
        if closer.direction[first] == scan.direction[window]:
            return min(latest, start + _place(one[:, part], other[:, part], closer, first))
    return latest
