"""The learning rate in the rows of a record: what rules need that judge by what a step did."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gradwatch.observations import Observation, Rows

# Below this part of the largest rate so far, a schedule is running out and steps are meant to be small.
ENDING = 1e-3


def known_rates(rows: Rows) -> np.ndarray:
    """Return the rates of the rows of which all are known, shape [rows, groups]."""
    rates: np.ndarray = rows.lr[np.isfinite(rows.lr).all(axis=1)]
    return rates


def highest_rate(rows: Rows) -> np.ndarray:
    """Return the largest rate of each row of which all are known, shape [rows]."""
    rates = known_rates(rows)
    highest: np.ndarray = rates.max(axis=1) if rates.shape[1] else np.zeros(0)
    return highest


def peak_rate(peak: float, rows: Rows) -> float:
    """Return the largest rate so far; NaN while none is known."""
    return float(np.fmax(peak, np.max(highest_rate(rows), initial=-math.inf))) if rows.lr.size else peak


def at_work(seen: Observation, peak: float) -> bool:
    """Whether the step of this record was meant to move weights as far as the rate can.

    Not so where it was skipped, while the rate rises (warm-up) and where it has all but run out.
    """
    rows, rates = seen.rows, highest_rate(seen.rows)
    if not rates.size or bool(rows.skipped[-1]):
        return False
    return bool(rates[-1] > 0 and rates[-1] <= rates[0] * (1 + 1e-6) and not rates[-1] < ENDING * peak)
