"""Many records, few rows: windows of records that double in length, each pooled into one row.

A run of N records becomes about 180 log2(N / 180) rows, and none of its extremes is lost: 1,000,000 records are some
2,200 rows. See ``gradwatch.serialization.tensorboard_rows`` for what is in a row.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradwatch.records import LayerTable
from gradwatch.serialization.tensorboard_rows import CURVE_NAMES, METRICS, ROWS_PER_WINDOW, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gradwatch.records import LayerNorms, StepRecord

_LARGEST = float(np.finfo(np.float32).max)


class Schedule:
    """How many records make a row: twice as many after every ``ROWS_PER_WINDOW`` rows.

    A row may be closed before its window is full, for what must be seen at once; at most half of the rows may, so that
    their number stays bounded however often that happens.

    Attributes:
        window: records in a full row.
    """

    def __init__(self) -> None:
        self.window = 1
        self._rows = self._early = 0

    @property
    def allows_early(self) -> bool:
        """Whether a row may be closed before its window is full."""
        return self._early < ROWS_PER_WINDOW // 2

    def count(self, records: int) -> None:
        """Count a row of so many records."""
        self._rows += 1
        self._early += records < self.window
        if self._rows == ROWS_PER_WINDOW:
            self.window *= 2
            self._rows = self._early = 0


class RowPool:
    """The records of one optimizer since its last row, pooled.

    A row that was written stays here until a record with a later log step comes: one with the same log step (the
    optimizer has stepped twice in a batch) joins it, and the row is written again in its place.

    Attributes:
        layers: names of the layers, in model order.
        last: log step of the last record, None before the first.
        waits: whether there are records that no row has.
    """

    def __init__(self, layers: tuple[str, ...]) -> None:
        self.layers = layers
        self.last: int | None = None
        self._schedule = Schedule()
        self._norms = np.empty((len(METRICS), len(layers)))
        self._curves: list[float] = []
        self._losses = self._grad_norms = (0.0, 0)
        self._records = self._row = 0
        self._closed = self.waits = False

    @property
    def is_due(self) -> bool:
        """Whether the window is full, or its row has been written without what waits."""
        return self.waits and (self._closed or self._records >= self._schedule.window)

    @property
    def may_close(self) -> bool:
        """Whether a row may be written although its window is not full."""
        return self.waits and self._schedule.allows_early

    def add(self, record: StepRecord) -> None:
        """Add a record of these layers."""
        norms = layer_values(record.layers)
        if self._closed and record.log_step != self.last:
            self._schedule.count(self._records)
            self._records, self._row = 0, self._row + 1
            self._closed = False
        if self._records:
            np.maximum(self._norms, norms, out=self._norms)  # NaN wins
            self._curves = _pooled(self._curves, _curves(record))
        else:
            self._norms[:] = norms
            self._curves = _curves(record)
            self._losses = self._grad_norms = (0.0, 0)
        self._losses = _summed(self._losses, record.loss)
        self._grad_norms = _summed(self._grad_norms, record.grad_norm)
        self._records += 1
        self.last = record.log_step
        self.waits = True

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the row: metrics of the layers (float32 [metrics, layers]) and curves (float64 [columns])."""
        self._closed, self.waits = True, False
        curves = np.array(self._curves)
        curves[_LOSS] = _mean(self._losses, self._curves[_LOSS])
        curves[_GRAD_NORM] = _mean(self._grad_norms, self._curves[_GRAD_NORM])
        curves[_ROW] = self._row
        return as_float32(self._norms), curves


def layer_values(layers: Mapping[str, LayerNorms]) -> np.ndarray:
    """Return the metrics of layers as an array, shape [metrics, layers]; ``UNKNOWN`` where a record has None.

    The gradient norm is the largest at any step since the record before.
    """
    table = LayerTable.of(layers)
    columns = {field: np.array(column) for field, column in table.columns.items()}
    for field, positions in table.missing.items():
        columns[field][list(positions)] = UNKNOWN  # numpy reads a tuple as one place of several axes
    norms, between = columns["grad_norm"], columns["grad_norm_max"]
    # NaN is exceeded by nothing, and 0 between two records stands for no gradient.
    np.copyto(norms, between, where=(between > norms) & (between > 0))
    return np.array([columns[metric] for metric in METRICS])


def as_float32(values: np.ndarray) -> np.ndarray:
    """Return values in float32; finite ones stay finite: a norm of 1e300 is huge, and not infinite."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    if np.isinf(narrow).any():
        overflown = np.isinf(narrow) & np.isfinite(values)
        narrow[overflown] = np.copysign(_LARGEST, values[overflown])
    return narrow


def worse(a: float | None, b: float | None) -> float | None:
    """Return the larger of two values that may be unknown; NaN wins."""
    if a is None or b is None:
        return b if a is None else a
    return a if math.isnan(a) or a >= b else b


# -- the curves of one row -------------------------------------------------------------------------------------------

_LOSS, _GRAD_NORM, _ROW = (CURVE_NAMES.index(name) for name in ("loss", "grad_norm", "row"))
_MAX, _MAX_STEP = (CURVE_NAMES.index(f"grad_norm_max{suffix}") for suffix in ("", "_step"))
_SUMS = [CURVE_NAMES.index(n) for n in ("records", "steps", "clipped_steps", "nonfinite_steps", "skipped_steps")]
_LAST = [CURVE_NAMES.index(n) for n in ("step", "max_norm", "lr")]
_LEAST = [CURVE_NAMES.index(n) for n in ("clip_coefficient", "loss_scale")]
_MOST = [CURVE_NAMES.index(n) for n in ("loss", "loss_max", "grad_norm")]


def _curves(record: StepRecord) -> list[float]:
    """Return the curves of one record, in the order of ``CURVES``."""
    window, clip = record.window, record.clip
    most = worse(record.grad_norm, window.grad_norm_max)
    elsewhere = window.grad_norm_max_step
    at = record.step if most is record.grad_norm or elsewhere is None else elsewhere
    values = (
        record.log_step,
        1,
        window.steps,
        record.step,
        record.loss,
        worse(record.loss, window.loss_max),
        record.grad_norm,
        most,
        None if most is None else at,
        clip.coefficient,
        window.clipped_steps,
        clip.max_norm,
        record.lr,
        record.loss_scale,
        window.nonfinite_steps,
        window.skipped_steps,
        0,
    )
    return [UNKNOWN if value is None else value for value in values]


def _pooled(row: list[float], new: list[float]) -> list[float]:
    if row[_MAX] >= new[_MAX] or math.isnan(row[_MAX]):
        new[_MAX], new[_MAX_STEP] = row[_MAX], row[_MAX_STEP]
    for i in _SUMS:
        new[i] += row[i]
    for i in _MOST:
        if row[i] >= new[i] or math.isnan(row[i]):
            new[i] = row[i]
    for i in _LEAST:
        if new[i] == UNKNOWN or UNKNOWN < row[i] < new[i]:
            new[i] = row[i]
    new[0] = row[0]
    return new


def _summed(total: tuple[float, int], value: float | None) -> tuple[float, int]:
    return total if value is None or not math.isfinite(value) else (total[0] + value, total[1] + 1)


def _mean(total: tuple[float, int], otherwise: float) -> float:
    """Return the mean of what is finite; ``otherwise`` (unknown, NaN, an infinity) where nothing is."""
    return total[0] / total[1] if total[1] else otherwise
