"""The learning rate in the rows of a record: what rules need that judge by what a step did."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from gradwatch.observations import Observation, Rows

# Below this part of the largest rate so far, a schedule is running out and steps are meant to be small.
ENDING = 1e-3


def known_rates(rows: Rows) -> np.ndarray:
    """Return the rates of the rows of which all are known, shape [rows, groups]."""
    rates: np.ndarray = rows.lr[np.isfinite(rows.lr).all(axis=1)]
    return rates


def is_constant(rows: Rows, last: float | np.ndarray) -> bool:
    """Whether every rate is what it was: the usual case, in a tenth of the time that a look at changes takes."""
    return rows.lr.size > 0 and bool((rows.lr == last).all())  # NaN is not equal


def highest_rate(rows: Rows) -> np.ndarray:
    """Return the largest rate of each row of which all are known, shape [rows]."""
    rates = known_rates(rows)
    highest: np.ndarray = rates.max(axis=1) if rates.shape[1] else np.zeros(0)
    return highest


class Schedule(NamedTuple):
    """The largest learning rate so far and the last one, NaN while none is known; ``rises``: since the last record."""

    peak: float = math.nan
    last: float = math.nan
    rises: bool = False


def followed(schedule: Schedule, rows: Rows) -> Schedule:
    """Return the schedule after these rows."""
    if is_constant(rows, schedule.last):
        return schedule._replace(rises=False)
    rates = highest_rate(rows)
    if not rates.size:
        return schedule
    before = rates[0] if math.isnan(schedule.last) else schedule.last
    now, peak = float(rates[-1]), float(np.fmax(schedule.peak, rates.max()))
    return Schedule(peak, now, rises=bool(now > before * (1 + 1e-6)))


def at_work(seen: Observation, schedule: Schedule) -> bool:
    """Whether the step of this record was meant to move weights as far as the rate can.

    Not so where it was skipped, while the rate rises (warm-up) and where it has all but run out.
    """
    if not seen.rows.skipped.size or bool(seen.rows.skipped[-1]):
        return False
    return schedule.last > 0 and not schedule.rises and not schedule.last < ENDING * schedule.peak
