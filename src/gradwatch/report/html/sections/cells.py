"""Values of the layers in columns: what the heatmaps, the table of layers and the drill-down all look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.html.columns import Columns, columns_of, medians, pooled, pooled_where

if TYPE_CHECKING:
    from gradwatch.report.run import Run
    from gradwatch.report.steps import Steps

METRICS = {"grad_norm": "Gradient norm", "weight_norm": "Weight norm", "update_ratio": "Update ratio"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantity:
    """One quantity of all layers: [columns, layers].

    ``values`` are the largest of each column, NaN where nothing is known; ``nonfinite`` is where something was NaN or
    infinite; ``medians`` are over the columns: [layers].
    """

    values: np.ndarray
    nonfinite: np.ndarray
    medians: np.ndarray

    @property
    def relative(self) -> np.ndarray:
        """The values divided by the layer's own median."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(self.values / self.medians)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """The layers of one optimizer."""

    optimizer: int
    names: tuple[str, ...]
    columns: Columns
    quantities: dict[str, Quantity]


def cells_of(run: Run) -> list[Cells]:
    """Return the layers of each optimizer that has records with layers."""
    return [_cells(steps) for steps in run.steps if len(steps) and steps.layers.names]


def _cells(steps: Steps) -> Cells:
    layers = steps.layers
    columns = columns_of(steps.step, len(layers.names))
    return Cells(
        optimizer=steps.optimizer,
        names=layers.names,
        columns=columns,
        quantities={
            "grad_norm": _quantity(columns, layers.grad_norm_high, layers.grad_norm_bad | (layers.nonfinite > 0)),
            "weight_norm": _quantity(columns, layers.weight_norm_high, layers.weight_norm_bad),
            "update_ratio": _quantity(columns, layers.update_ratio_high, layers.update_ratio_bad),
        },
    )


def _quantity(columns: Columns, values: np.ndarray, nonfinite: np.ndarray) -> Quantity:
    bad = pooled_where(columns, nonfinite | np.isinf(values))
    largest = pooled(columns, np.where(np.isinf(values), np.nan, values))
    return Quantity(values=largest, nonfinite=bad, medians=medians(largest))
