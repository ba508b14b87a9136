"""Medians over stretches of records: robust, and blind to what is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gradwatch.report.compare.arrays import Floats


def known_median(values: Floats) -> Floats:
    """Return the median along the last axis of what is not NaN; NaN where nothing is known.

    ``numpy.nanmedian`` does the same one row at a time in Python, which takes seconds for the layers of a large model.
    """
    ordered = np.sort(values, axis=-1)  # NaN goes last
    count = np.count_nonzero(~np.isnan(values), axis=-1)[..., np.newaxis]
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=-1)
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[-1] - 1), axis=-1)
    middle = np.where(low == high, low, 0.5 * low + 0.5 * high)  # the sum may overflow, and half of the least is zero
    known: Floats = np.where(count > 0, middle, np.nan)[..., 0]
    return known


def running_median(values: Floats, width: int) -> Floats:
    """Return the median of every window of ``width`` neighbours along the last axis: ``width - 1`` fewer values."""
    if width == 1:
        return values
    return known_median(np.lib.stride_tricks.sliding_window_view(values, width, axis=-1))


def in_bins(values: Floats, width: int) -> Floats:
    """Return the median of each ``width`` neighbours along the last axis; the last bin may hold fewer."""
    if width == 1:
        return values
    missing = -values.shape[-1] % width
    padded = np.concatenate([values, np.full((*values.shape[:-1], missing), np.nan)], axis=-1)
    return known_median(padded.reshape(*values.shape[:-1], -1, width))
