"""From the JSON objects of step records to columns.

A log of 100 MB has millions of numbers, so there is no dataclass for each layer: plain numbers go from the JSON object
into arrays, and whatever looks odd (missing, of another type, not finite) goes through the codec, which reads it as it
would any event or says what is wrong with it.
"""

from __future__ import annotations

import math
from array import array
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwatch.records import SCHEMA_VERSION
from gradwatch.report.layer_columns import MAX_CELLS, LayerTable
from gradwatch.report.steps import Steps
from gradwatch.serialization import SchemaError, from_dict

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOP = (
    "step",
    "log_step",
    "epoch",
    "time",
    "loss",
    "grad_norm",
    "lr",
    "loss_scale",
    "skipped_steps",
    "nonfinite_steps",
)
_CLIP = ("max_norm", "coefficient", "clipped", "rate")
_WINDOW = (
    "steps",
    "grad_norm_max",
    "grad_norm_max_step",
    "loss_max",
    "clipped_steps",
    "skipped_steps",
    "nonfinite_steps",
)
_top, _clip, _window = itemgetter(*_TOP), itemgetter(*_CLIP), itemgetter(*_WINDOW)
_COLUMNS = (*_TOP, *(f"clip.{name}" for name in _CLIP), *(f"window.{name}" for name in _WINDOW))
_LOSS, _GRAD_NORM = _COLUMNS.index("loss"), _COLUMNS.index("grad_norm")
_POOLED = ("records", "first_step", "loss_low", "loss_high", "grad_norm_low", "grad_norm_high")
_COUNTS = (
    "step",
    "log_step",
    "epoch",
    "skipped_steps",
    "nonfinite_steps",
    "window.steps",
    "window.clipped_steps",
    "window.skipped_steps",
    "window.nonfinite_steps",
    "records",
    "first_step",
)
# Doubles hold every integer up to here, and no training has as many steps.
_LARGEST_COUNT = 2**53
_MAX_GROUPS = _MAX_SHAPES = 1000


class StepTable:
    """Collects the step records of one optimizer."""

    def __init__(self, optimizer: int) -> None:
        self._optimizer = optimizer
        self._rows = array("d")
        self._lr_groups: list[array[float]] = []
        self._layers = LayerTable()
        self._known: set[tuple[type, ...]] = set()

    def add(self, data: dict[str, Any]) -> None:
        """Take in the JSON object of a record.

        Raises:
            SchemaError: it is not a step record; the text is the codec's.
        """
        row, rates = self._read(data)
        pooled = data.get("pooled")
        pools = _pool(data) if pooled is not None else (1, row[0], None, None, None, None)
        self._layers.add(data, pooled)
        try:
            self._rows.extend([_is_bad(row[_LOSS]), _is_bad(row[_GRAD_NORM])])
            self._rows.extend([math.nan if value is None else value for value in (*row, *pools)])
            self._lr_groups.append(array("d", rates[:_MAX_GROUPS]))
        except OverflowError:
            raise SchemaError("a step record with an integer that no float can hold") from None

    def finish(self, order: dict[str, int]) -> Steps:
        """Return the columns; ``order`` has the place of each layer in the model.

        Raises:
            SchemaError: there are too many layers for a table, or a count is out of range.
        """
        names = ("loss_bad", "grad_norm_bad", *_COLUMNS, *_POOLED)
        table = dict(zip(names, np.array(self._rows).reshape(-1, len(names)).T.copy(), strict=True))
        counts = {name: _count(name, table[name]) for name in _COUNTS}
        return Steps(
            optimizer=self._optimizer,
            step=counts["step"],
            log_step=counts["log_step"],
            epoch=counts["epoch"],
            time=table["time"],
            loss=table["loss"],
            loss_low=np.fmin(table["loss"], table["loss_low"]),
            loss_high=np.fmax(table["loss"], np.fmax(table["loss_high"], table["window.loss_max"])),
            loss_bad=table["loss_bad"] > 0,
            grad_norm=table["grad_norm"],
            grad_norm_low=np.fmin(table["grad_norm"], table["grad_norm_low"]),
            grad_norm_high=np.fmax(table["grad_norm"], np.fmax(table["grad_norm_high"], table["window.grad_norm_max"])),
            grad_norm_bad=table["grad_norm_bad"] > 0,
            grad_norm_max_step=table["window.grad_norm_max_step"],
            lr=table["lr"],
            lr_groups=_ragged(self._lr_groups),
            loss_scale=table["loss_scale"],
            coefficient=table["clip.coefficient"],
            clipped=table["clip.clipped"] > 0,
            clip_rate=table["clip.rate"],
            max_norm=table["clip.max_norm"],
            skipped_steps=counts["skipped_steps"],
            nonfinite_steps=counts["nonfinite_steps"],
            window_steps=counts["window.steps"],
            window_clipped=counts["window.clipped_steps"],
            window_skipped=counts["window.skipped_steps"],
            window_nonfinite=counts["window.nonfinite_steps"],
            records=counts["records"],
            first_step=counts["first_step"],
            layers=self._layers.finish(order),
        )

    def _read(self, data: dict[str, Any]) -> tuple[tuple[Any, ...], list[float]]:
        """Return the numbers of a record.

        The codec looks at the first record of each shape, and at every one that has something else than plain numbers:
        values of the same types at the same places are as good as those that it has accepted.
        """
        try:
            row = (*_top(data), *_clip(data["clip"]), *_window(data["window"]))
            rates, version = data["lr_groups"], data["schema_version"]
            types = (type(version), *map(type, row), *map(type, rates))
        except (KeyError, TypeError):
            version, types = None, ()
        if version == SCHEMA_VERSION and types in self._known:
            return row, rates
        record: Any = from_dict({**data, "layers": {}, "pooled": None})
        if str not in types and len(self._known) < _MAX_SHAPES:
            self._known.add(types)
        row = tuple(
            getattr(part, name)
            for part, names in ((record, _TOP), (record.clip, _CLIP), (record.window, _WINDOW))
            for name in names
        )
        return row, record.lr_groups


def _pool(data: dict[str, Any]) -> tuple[int, int, float | None, float | None, float | None, float | None]:
    """Return what thinning says of the record as a whole; what it says of layers is read with them."""
    lists = ("layer_nonfinite", "layer_grad_norm", "layer_weight_norm", "layer_update_ratio")
    pooled = data["pooled"]
    if isinstance(pooled, dict):
        pooled = {**pooled, **{name: [] for name in lists if name in pooled}}
    record: Any = from_dict({**data, "layers": {}, "pooled": pooled})
    loss, grad_norm = (_range(name, getattr(record.pooled, name)) for name in ("loss", "grad_norm"))
    return record.pooled.records, record.pooled.first_step, *loss, *grad_norm


def _is_bad(value: float | None) -> bool:
    return value is not None and not math.isfinite(value)


def _range(name: str, values: list[float] | None) -> tuple[float | None, float | None]:
    if values is None:
        return None, None
    if len(values) != 2:  # noqa: PLR2004 - the least and the largest
        raise SchemaError(f"'pooled': {name!r}: expected the least and the largest value, got {len(values)} values")
    return values[0], values[1]


def _count(name: str, column: np.ndarray) -> np.ndarray:
    largest = np.abs(column).max(initial=0.0)
    if not largest < _LARGEST_COUNT:
        raise SchemaError(f"a step record has {name!r} = {largest:g}, which is no count")
    return column.astype(np.int64)


def _ragged(rows: Sequence[array[float]]) -> np.ndarray:
    """Return rows of different lengths as one array, NaN where a row has ended."""
    width = min(max(map(len, rows), default=0), MAX_CELLS // max(1, len(rows)))
    filled = np.full((len(rows), width), np.nan)
    for place, row in enumerate(rows):
        filled[place, : len(row)] = row[:width]
    return filled
