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
_ENDS = ("low", "high")

_NONFINITE = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
_FLOAT, _COUNT = {float, int, NoneType}, {int}


class _Odd(Exception):  # noqa: N818 - not an error yet: the codec says whether it is one
    """A value that is no plain number."""


class _Record(NamedTuple):
    """Arrays of one record: ``values`` [quantities, layers], ``ranges`` [layers, 2] of the quantities that have one.

    ``bad``, of the shape of ``values``, is where they were NaN or infinite; None where all of them are good.
    Those of the gradient norm are over all steps since the record before, those of a pooled record over its bucket.
    """

    names: tuple[str, ...]
    values: np.ndarray
    bad: np.ndarray | None
    nonfinite: np.ndarray
    ranges: dict[str, np.ndarray]

    def range_of(self, quantity: str) -> np.ndarray:
        """Return least and largest value of each layer, shape [layers, 2]; NaN where nothing but its value is known."""
        found = self.ranges.get(quantity)
        return np.full((len(self.names), 2), np.nan) if found is None else found

    def is_bad(self, number: int) -> np.ndarray:
        """Return where the values of a quantity were NaN or infinite, shape [layers]."""
        return np.zeros(len(self.names), dtype=bool) if self.bad is None else self.bad[number]


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

        Without a record all in ``order`` are its layers.

        Raises:
            SchemaError: it would be too large for memory.
        """
        seen = dict.fromkeys(chain.from_iterable(dict.fromkeys(record.names for record in self._records)))
        seen = seen if self._records else dict.fromkeys(order)
        names = tuple(sorted(seen, key=lambda name: order.get(name, len(order))))
        if len(self._records) * len(names) > MAX_CELLS:
            raise SchemaError(
                f"{len(self._records):,} records of {len(names):,} layers are more than a table can hold"
                f" ({MAX_CELLS:,} values)"
            )
        place = {name: column for column, name in enumerate(names)}
        shape = (len(self._records), len(names))
        nonfinite = np.zeros(shape, dtype=np.int64)
        tables = {quantity: np.full(shape, np.nan) for quantity in QUANTITIES}
        for quantity in QUANTITIES:
            ranged = any(quantity in record.ranges for record in self._records)
            # One and the same array where no record has a range.
            tables |= {f"{quantity}_{end}": tables[quantity].copy() if ranged else tables[quantity] for end in _ENDS}
        # Hardly any run has one: a mask that takes no memory until then.
        nowhere = np.broadcast_to(np.False_, shape)
        some = any(record.bad is not None for record in self._records)
        bad = {f"{quantity}_bad": np.zeros(shape, dtype=bool) if some else nowhere for quantity in QUANTITIES}
        for rows in self._alike():
            records = [self._records[row] for row in rows]
            at = np.ix_(rows, [place[name] for name in records[0].names])
            nonfinite[at] = np.stack([record.nonfinite for record in records])
            for number, quantity in enumerate(QUANTITIES):
                value, low, high = (tables[name] for name in (quantity, *(f"{quantity}_{end}" for end in _ENDS)))
                value[at] = np.stack([record.values[number] for record in records])
                if some:
                    bad[f"{quantity}_bad"][at] = np.stack([record.is_bad(number) for record in records])
                if low is not value:
                    ranges = np.stack([record.range_of(quantity) for record in records])
                    low[at] = np.fmin(value[at], ranges[..., 0])
                    high[at] = np.fmax(value[at], ranges[..., 1])
        return Layers(names=names, nonfinite=nonfinite, **tables, **bad)

    def _alike(self) -> list[list[int]]:
        """Return the records that have the same layers, by their place."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for row, record in enumerate(self._records):
            groups.setdefault(record.names, []).append(row)
        return list(groups.values())

    def _read(self, layers: dict[str, Any], pooled: Any) -> _Record:
        names = tuple(layers)
        if names == self._names:
            names = self._names  # one tuple for all records with these layers
        self._names = names
        cells = list(layers.values())
        plain = [cell[quantity] for quantity in QUANTITIES for cell in cells]
        values = _floats(plain)
        return _Record(
            names,
            values.reshape(len(QUANTITIES), -1),
            _bad(plain, values),
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


def _bad(plain: list[Any], values: np.ndarray) -> np.ndarray | None:
    """Return where values are not finite because they were written so; None where none is."""
    bad = ~np.isfinite(values)
    if bad.any():
        bad &= np.array([value is not None for value in plain])
    return bad.reshape(len(QUANTITIES), -1) if bad.any() else None


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
