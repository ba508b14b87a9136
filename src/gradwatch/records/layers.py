"""The layers of one optimizer step: norms by layer, kept as columns."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorms:
    """One layer at one optimizer step.

    ``grad_norm`` and ``nonfinite`` describe the gradient before clipping; None stands for "no gradient".
    ``update_ratio`` is the norm of the change that the optimizer made, divided by ``weight_norm``. ``grad_norm_max``
    is the largest finite gradient norm at any step since the last record, 0 where there was none.
    """

    grad_norm: float | None
    weight_norm: float | None
    update_ratio: float | None
    nonfinite: int
    grad_norm_max: float | None = None


class LayerTable(Mapping[str, LayerNorms]):
    """``LayerNorms`` by name of the layer, in the model's order.

    It is kept as columns of numbers and written column by column: to take hundreds of layers apart would cost more than
    all else that is done with a record. Single layers are made when they are asked for.

    Attributes:
        names: of the layers.
        columns: by field of ``LayerNorms``, in their order; doubles, one a layer.
        missing: by field, the positions of layers whose value is None; a field without any may be left out.
    """

    def __init__(
        self, names: tuple[str, ...], columns: Mapping[str, array[float]], missing: Mapping[str, Sequence[int]]
    ) -> None:
        self.names, self.missing = names, missing
        self.columns = {field: columns[field] for field in _FIELDS}

    @classmethod
    def of(cls, layers: Mapping[str, LayerNorms]) -> LayerTable:
        """Return ``layers`` as a table, which they may be already."""
        if isinstance(layers, cls):
            return layers
        columns, missing = {}, {}
        for field in _FIELDS:
            values = [getattr(layer, field) for layer in layers.values()]
            columns[field] = array("d", [math.nan if value is None else value for value in values])
            missing[field] = [position for position, value in enumerate(values) if value is None]
        return cls(tuple(layers), columns, missing)

    def __getitem__(self, name: str) -> LayerNorms:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return repr(self._layers)

    @cached_property
    def _layers(self) -> dict[str, LayerNorms]:
        columns: dict[str, list[Any]] = {field: column.tolist() for field, column in self.columns.items()}
        columns["nonfinite"] = list(map(int, columns["nonfinite"]))
        for field, positions in self.missing.items():
            for position in positions:
                columns[field][position] = None
        rows: Iterable[tuple[Any, ...]] = zip(*columns.values(), strict=True)
        each = (LayerNorms(**dict(zip(_FIELDS, row, strict=True))) for row in rows)
        return dict(zip(self.names, each, strict=True))


_FIELDS = tuple(field.name for field in fields(LayerNorms))
