"""Records put together into columns: what a picture and the values behind it can hold of a long run."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

MOST = 800  # columns: no more than the pixels of a wide page
FEWEST = 100
CELLS = 1_000_000  # of one quantity; more layers have fewer columns


class Columns(NamedTuple):
    """Consecutive records by columns. All arrays have one entry a column.

    Attributes:
        start: index of the first record.
        first: the first step after the column before, where records say what happened since the last one.
        last: step of the last record.
    """

    start: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @property
    def even(self) -> bool:
        """Whether all columns span as many steps, the last one aside."""
        spans = (self.last - self.first)[:-1]
        return not spans.size or int(spans.max()) == int(spans.min())


def columns_of(step: np.ndarray, layers: int) -> Columns:
    """Return columns of as many records each, few enough for ``layers`` layers.

    Args:
        step: [records] the steps of at least one record, in order.
        layers: how many layers each record has.
    """
    most = min(MOST, max(FEWEST, CELLS // max(layers, 1)))
    step = np.maximum.accumulate(np.asarray(step, dtype=np.int64))  # a foreign log may go back
    each = -(-step.size // most)
    start = np.arange(0, step.size, each)
    last = step[np.minimum(start + each, step.size) - 1]
    usual = int(np.median(np.diff(step))) * each if step.size > 1 else 1
    before = np.concatenate([[max(int(last[0]) - usual, min(int(step[0]), 0) - 1)], last[:-1]])
    return Columns(start, np.minimum(before + 1, last), last)


def pooled(columns: Columns, values: np.ndarray) -> np.ndarray:
    """Return the largest value of each column, [columns, layers]: a spike of one step stays. NaN: none is known."""
    return np.fmax.reduceat(values, columns.start, axis=0)


def pooled_where(columns: Columns, flags: np.ndarray) -> np.ndarray:
    """Return whether anything in a column is so: [columns, layers]."""
    return np.logical_or.reduceat(flags, columns.start, axis=0)


def medians(values: np.ndarray) -> np.ndarray:
    """Return the median of each layer over its finite, positive values: [layers]; NaN where there is none."""
    usable = np.where(np.isfinite(values) & (values > 0.0), values, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a layer without a value has no median: NaN is the answer
        return np.asarray(np.nanmedian(usable, axis=0))
