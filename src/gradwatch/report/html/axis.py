"""Axes: from values to places between 0 and 1, and the ticks that a person would choose."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

SMALLEST, LARGEST = 1e-280, 1e280
WIDE = 30.0  # a quantity that spans more than this is read by its orders of magnitude
_STEPS = (1.0, 2.0, 5.0, 10.0)


class Axis(NamedTuple):
    """What an axis spans, linearly or by orders of magnitude."""

    low: float
    high: float
    log: bool = False

    def place(self, values: np.ndarray) -> np.ndarray:
        """Return where ``values`` lie: 0 is the low end, 1 the high end; NaN where the axis has no place."""
        values = _bounded(values)
        low, high = self.low, self.high
        if self.log:
            values = np.log10(np.where(values > 0.0, values, np.nan))
            low, high = math.log10(low), math.log10(high)
        return np.where(np.isfinite(values), (values - low) / (high - low), np.nan)

    def ticks(self, most: int) -> list[float]:
        """Return at most about ``most`` round values on the axis."""
        return _decades(self, most) if self.log else _round_values(self.low, self.high, most)


def steps_axis(first: float, last: float) -> Axis:
    """Return the axis of steps; a run of one step has room on both sides."""
    return Axis(first, last) if last > first else Axis(first - 1.0, last + 1.0)


def value_axis(values: np.ndarray, *, log: bool | None = None) -> Axis:
    """Return an axis that holds all finite ``values`` with some air.

    Args:
        values: any numbers; what is not finite is left out.
        log: by orders of magnitude. Default: where all values are positive and span a factor of ``WIDE``. Where no
            value is positive the axis is linear all the same.
    """
    values = _bounded(values)
    values = values[np.isfinite(values)]
    positive = values[values > 0.0]
    if log is None:
        log = positive.size == values.size > 0 and float(positive.max()) > WIDE * float(positive.min())
    if log and positive.size:
        return _log_axis(float(positive.min()), float(positive.max()))
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    air = 0.06 * (high - low) or 0.06 * abs(high) or 1.0  # all values are one
    return Axis(low - air if low < 0.0 or low > air else 0.0, high + air)


def _log_axis(low: float, high: float) -> Axis:
    air = min(max(0.06 * (math.log10(high) - math.log10(low)), 0.1), 3.0)
    return Axis(10.0 ** (math.log10(low) - air), 10.0 ** (math.log10(high) + air), log=True)


def _bounded(values: np.ndarray) -> np.ndarray:
    """Return values with those near the ends of what a float can be drawn in: an axis needs room beside them."""
    values = np.asarray(values, dtype=np.float64)
    size = np.where(np.isfinite(values), np.clip(np.abs(values), SMALLEST, LARGEST), np.abs(values))
    return np.where(values == 0.0, 0.0, np.copysign(size, values))


def _round_values(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / max(most, 1)
    unit = 10.0 ** math.floor(math.log10(rough)) if rough > 0.0 else 1.0
    step = next((unit * factor for factor in _STEPS if unit * factor >= rough), 10.0 * unit)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _decades(axis: Axis, most: int) -> list[float]:
    low, high = math.log10(axis.low), math.log10(axis.high)
    powers = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    if len(powers) > 1:
        return [10.0**power for power in powers[:: math.ceil(len(powers) / most)]]
    values = [factor * 10.0**power for power in range(math.floor(low), math.ceil(high)) for factor in (1, 2, 5)]
    inside = [value for value in values if axis.low <= value <= axis.high]
    return inside if len(inside) > 1 else _round_values(axis.low, axis.high, most)
