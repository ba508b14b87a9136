"""The layers of step records as arrays; see ``columns``."""

from __future__ import annotations

from itertools import chain
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from gradwatch.report.steps import Layers
from gradwatch.serialization import SchemaError, from_dict

# 40 times the table of a run of 2,000 layers whose log is as long as logs get; 256 MiB for each quantity.
MAX_CELLS = 2**25
QUANTITIES = ("grad_norm", "weight_norm", "update_ratio")

_NONFINITE = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
_FLOAT, _COUNT = {float, int, NoneType}, {int}


class _Odd(Exception):  # noqa: N818 - not an error yet: the codec says whether it is one
    """A value that is no plain number."""


class _Record(NamedTuple):
    """Arrays of one record, shape [its layers]; ``ranges`` has low and high of the quantities that have one.

    Those of the gradient norm are over all steps since the record before, those of a pooled record over its bucket.
    """

    names: tuple[str, ...]
    values: dict[str, np.ndarray]
    nonfinite: np.ndarray
    ranges: dict[str, np.ndarray]


class LayerTable:
    """Collects the layers of each record."""

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._names: tuple[str, ...] = ()

    def add(self, data: dict[str, Any], pooled: Any) -> None:
        """Take in the layers of one record, and what thinning says of them.

        Raises:
            SchemaError: they are not what a step record has; the text is the codec's.
        """
        try:
            record = self._read(data["layers"], pooled)
        except (_Odd, KeyError, TypeError, AttributeError, OverflowError, ValueError) as odd:
            from_dict(data)  # says what is wrong
            raise SchemaError(f"'layers': {odd}") from None
        self._records.append(record)

    def finish(self, order: dict[str, int]) -> Layers:
        """Return the table, its layers in ``order``, those that are not in it behind, as they came.

        Raises:
            SchemaError: it would be too large for memory.
        """
        seen = dict.fromkeys(chain.from_iterable(dict.fromkeys(record.names for record in self._records)))
        names = tuple(sorted(seen, key=lambda name: order.get(name, len(order))))
        if len(self._records) * len(names) > MAX_CELLS:
            raise SchemaError(
                f"{len(self._records):,} records of {len(names):,} layers are more than a table can hold"
                f" ({MAX_CELLS:,} values)"
            )
        place = {name: column for column, name in enumerate(names)}
        columns = {
            names: np.array([place[name] for name in names], dtype=np.intp)
            for names in dict.fromkeys(record.names for record in self._records)
        }
        places = [columns[record.names] for record in self._records]
        shape = (len(self._records), len(names))
        nonfinite = np.zeros(shape, dtype=np.int64)
        for row, (record, at) in enumerate(zip(self._records, places, strict=True)):
            nonfinite[row, at] = record.nonfinite
        tables: dict[str, np.ndarray] = {}
        for quantity in QUANTITIES:
            tables |= self._tables(quantity, shape, places)
        return Layers(names=names, nonfinite=nonfinite, **tables)

    def _tables(self, quantity: str, shape: tuple[int, int], places: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Return value, low and high: one and the same array where no record has a range."""
        value = np.full(shape, np.nan)
        for row, (record, at) in enumerate(zip(self._records, places, strict=True)):
            value[row, at] = record.values[quantity]
        low = high = value
        if any(quantity in record.ranges for record in self._records):
            low, high = value.copy(), value.copy()
            for row, (record, at) in enumerate(zip(self._records, places, strict=True)):
                if quantity in record.ranges:
                    low[row, at] = np.fmin(low[row, at], record.ranges[quantity][:, 0])
                    high[row, at] = np.fmax(high[row, at], record.ranges[quantity][:, 1])
        return {quantity: value, f"{quantity}_low": low, f"{quantity}_high": high}

    def _read(self, layers: dict[str, Any], pooled: Any) -> _Record:
        names = tuple(layers)
        if names == self._names:
            names = self._names  # one tuple for all records with these layers
        self._names = names
        cells = list(layers.values())
        return _Record(
            names,
            {quantity: _floats([cell[quantity] for cell in cells]) for quantity in QUANTITIES},
            _counts([cell["nonfinite"] for cell in cells] if pooled is None else pooled["layer_nonfinite"], len(names)),
            _between(cells)
            if pooled is None
            else {name: _ranges(pooled[f"layer_{name}"], len(names)) for name in QUANTITIES},
        )


def _between(cells: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return the range of the gradient norm: 0 stands for no gradient at any step."""
    largest = _floats([cell.get("grad_norm_max") or None for cell in cells])
    return {} if np.isnan(largest).all() else {"grad_norm": np.stack((largest, largest), axis=1)}


def _floats(values: list[Any]) -> np.ndarray:
    """Return JSON numbers as floats, None as NaN."""
    if not _FLOAT.issuperset(map(type, values)):
        values = [_NONFINITE.get(value, value) if type(value) is str else value for value in values]
        if not _FLOAT.issuperset(map(type, values)):
            raise _Odd("expected numbers")
    return np.array(values, dtype=np.float64)


def _counts(values: list[Any], length: int) -> np.ndarray:
    if not _COUNT.issuperset(map(type, values)):
        raise _Odd("expected integers")
    if len(values) != length:
        raise _Odd(f"{len(values)} counts of non-finite elements for {length} layers")
    return np.array(values, dtype=np.int64)


def _ranges(pairs: list[list[Any] | None], length: int) -> np.ndarray:
    """Return the least and the largest value of each layer, shape [layers, 2]."""
    both = [(None, None) if pair is None else pair for pair in pairs]
    if len(both) != length or any(len(pair) != 2 for pair in both):  # noqa: PLR2004 - the least and the largest
        raise _Odd(f"ranges that are not one pair for each of {length} layers")
    return _floats(list(chain.from_iterable(both))).reshape(-1, 2)
