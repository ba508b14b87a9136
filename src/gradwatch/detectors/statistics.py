"""Robust statistics over what is known: NaN is passed over everywhere, and no single value moves a result far."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

# How many windows (the steps from one log step to the next) count as recent.
WINDOWS = 20
# Makes the median absolute deviation of a normal distribution its standard deviation.
MAD_TO_STD = 1.4826

Recent = tuple[float, ...]


def known(values: np.ndarray) -> np.ndarray:
    """Return the values that are finite."""
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def finite_or_nan(values: np.ndarray) -> np.ndarray:
    """Return the values, NaN for what is not finite."""
    return np.where(np.isfinite(values), values, np.nan)


def finite_median(values: np.ndarray | Sequence[float]) -> float:
    """Return the median of what is finite, NaN if nothing is."""
    if isinstance(values, tuple):  # a score of remembered numbers: quicker without numpy
        return _median(sorted(filter(math.isfinite, values)))
    return _median(_sorted(known(np.array(values, dtype=float))))


def spread(values: np.ndarray | Sequence[float]) -> float:
    """Return the robust standard deviation, 1.4826 · median |x - median|, of what is finite; NaN if nothing is."""
    finite = _sorted(known(np.array(values, dtype=float)))
    with np.errstate(over="ignore"):
        return MAD_TO_STD * _median(_sorted(np.abs(finite - _median(finite))))


def noise_of(values: np.ndarray | Sequence[float]) -> float:
    """Return the robust standard deviation of a sequence about its own trend: that of its differences by sqrt(2)."""
    finite = known(np.array(values, dtype=float))
    with np.errstate(over="ignore"):
        return MAD_TO_STD / math.sqrt(2.0) * _median(_sorted(np.abs(finite[1:] - finite[:-1])))


def _sorted(finite: np.ndarray) -> np.ndarray:
    """Sort in place: for the few hundred numbers of a window, median and all take a tenth of ``numpy.median``."""
    finite.sort()
    return finite


def _median(ordered: np.ndarray | list[float]) -> float:
    if not len(ordered):
        return math.nan
    middle, odd = divmod(len(ordered), 2)
    if odd:
        return float(ordered[middle])
    return 0.5 * float(ordered[middle - 1]) + 0.5 * float(ordered[middle])  # the sum may overflow


def remember(recent: Recent, value: float, count: int = WINDOWS) -> Recent:
    """Return ``recent`` with a value at its end, the last ``count`` of them; what is not finite is not remembered."""
    return (*recent, value)[-count:] if math.isfinite(value) else recent
