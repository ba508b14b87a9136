"""The door of the rules: what is not finite is not known, and stands as NaN in everything that a rule reads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gradwatch.detectors.statistics import finite_or_nan

if TYPE_CHECKING:
    from gradwatch.observations import Layers, Observation, Rows

ROWS = ("batch_idx", "loss", "grad_norm", "coefficient", "loss_scale", "batch_size", "lr")
LAYERS = ("grad_norm", "grad_norm_max", "weight_norm", "update_ratio", "lr", "unchanged", "below_epsilon", "subnormal")

Columns = TypeVar("Columns", "Rows", "Layers")


def as_known(seen: Observation) -> Observation:
    """Return the observation with NaN for every infinity in its rows and layers."""
    rows, layers = _without_infinity(seen.rows, ROWS), _without_infinity(seen.layers, LAYERS)
    if rows is seen.rows and layers is seen.layers:
        return seen  # nearly always
    return replace(seen, rows=rows, layers=layers)


def _without_infinity(columns: Columns, names: tuple[str, ...]) -> Columns:
    values = [getattr(columns, name) for name in names]
    if not np.isinf(np.concatenate(values, axis=None)).any():
        return columns
    changed: dict[str, Any] = {name: finite_or_nan(value) for name, value in zip(names, values, strict=True)}
    return columns._replace(**changed)
