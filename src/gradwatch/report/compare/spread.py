"""Mean and spread of a group of curves, in the domain in which they are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.report.compare.arrays import quietly
from gradwatch.report.compare.smoothing import known_median

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.report.compare.arrays import Floats

# A norm of zero has no logarithm: it counts as this share of the smallest one that is not zero.
_BELOW_ALL = 0.1
_LEAST = float(np.finfo(np.float64).smallest_subnormal)


class Band(NamedTuple):
    """A group of curves at each step: their mean, one standard deviation (n - 1) to both sides, extremes and number.

    In the logarithmic domain the mean is geometric and the deviation a factor. ``low`` and ``high`` are NaN where
    there is one run only.
    """

    mean: Floats
    low: Floats
    high: Floats
    least: Floats
    most: Floats
    runs: Floats


class Domain(NamedTuple):
    """Where curves are averaged and compared.

    As logarithms, with ``floor`` in the place of zero; else as they are, in units of ``scale``.
    """

    logarithmic: bool
    floor: float = 0.0
    scale: float = 1.0

    @quietly
    def into(self, values: Floats) -> Floats:
        """Return values as they are compared; NaN for what is not finite."""
        finite = np.where(np.isfinite(values), values, np.nan)
        if not self.logarithmic:
            return finite / self.scale
        floored: Floats = np.log(np.maximum(finite, self.floor))
        return floored

    @quietly
    def back(self, values: Floats) -> Floats:
        """Return compared values as they were recorded."""
        return np.exp(values) if self.logarithmic else values * self.scale


def domain_of(curves: Sequence[Floats], *, zero_is_a_value: bool = False) -> Domain:
    """Return the domain for curves that belong together: logarithms, unless a value is negative or all are zero.

    Args:
        curves: arrays of any shape.
        zero_is_a_value: of losses it is, as any negative number is; of norms it is one too small to be seen.
    """
    finite = np.concatenate([curve[np.isfinite(curve)].ravel() for curve in curves]) if curves else np.empty(0)
    positive = finite[finite > 0]
    least = 0.0 if zero_is_a_value else -_LEAST
    if not len(positive) or finite.min() <= least:
        return Domain(logarithmic=False, scale=_typical(finite))
    return Domain(logarithmic=True, floor=max(float(positive.min()) * _BELOW_ALL, _LEAST))


def _typical(finite: Floats) -> float:
    """Return the size of most values, and nothing so small that dividing the others by it overflows."""
    sizes = np.abs(finite[finite != 0])
    return max(float(known_median(sizes)), float(sizes.max()) * 1e-300, _LEAST) if len(sizes) else 1.0


@quietly
def band(values: Floats, domain: Domain) -> Band:
    """Return the band of curves [runs, steps] that are in ``domain`` already."""
    known = ~np.isnan(values)
    count = np.count_nonzero(known, axis=0).astype(float)
    mean = np.where(known, values, 0.0).sum(axis=0) / count
    squares = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0)
    deviation = np.where(count > 1, np.sqrt(squares / (count - 1)), np.nan)
    least = np.where(count > 0, np.where(known, values, np.inf).min(axis=0, initial=np.inf), np.nan)
    most = np.where(count > 0, np.where(known, values, -np.inf).max(axis=0, initial=-np.inf), np.nan)
    parts = (mean, mean - deviation, mean + deviation, least, most)
    center, low, high, smallest, largest = map(domain.back, parts)
    return Band(center, low, high, smallest, largest, count)
