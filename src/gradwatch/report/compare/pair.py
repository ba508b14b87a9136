"""One run against one run: without seeds there is no spread, so what is said is how far apart the numbers are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.report.compare.arrays import quietly

if TYPE_CHECKING:
    from gradwatch.report.compare.arrays import Floats

VISIBLE = 0.01  # a difference that is seen on a plot


class Apart(NamedTuple):
    """Where two curves differ, as positions: at all, by over one percent, and where one alone stops being finite.

    ``first_size`` and ``largest`` are relative to the larger of the two values. None stands for nowhere.
    """

    first: int | None
    first_size: float
    visible: int | None
    nonfinite: int | None
    largest: float


def apart(one: Floats, other: Floats) -> Apart:
    """Compare two curves, bit by bit and relative to their size; records that one of them lacks (None) are passed over.

    Args:
        one: values of a run; NaN and infinite where they were recorded so.
        other: those of the other run at the same steps.
    """
    size = relative_difference(one, other)
    alone = np.isfinite(one) != np.isfinite(other)
    first = _first(size > 0)
    finite = size[np.isfinite(size)]
    return Apart(
        first=first,
        first_size=float(size[first]) if first is not None else 0.0,
        visible=_first(size > VISIBLE),
        nonfinite=_first(alone),
        largest=float(finite.max(initial=0.0)),
    )


@quietly
def relative_difference(one: Floats, other: Floats) -> Floats:
    """Return |a - b| / max(|a|, |b|): zero for equal values and where both are not finite, infinite where one is not.

    Large numbers are halved before they are subtracted, as their difference may overflow; the least are not, as half of
    them may be zero.
    """
    scale = np.maximum(np.abs(one), np.abs(other))
    half = np.where(scale > 1.0, 0.5, 1.0)
    size: Floats = np.abs(half * one - half * other) / (half * scale)
    both, neither = np.isfinite(one) & np.isfinite(other), ~np.isfinite(one) & ~np.isfinite(other)
    size = np.where(both, np.where(one == other, 0.0, size), np.inf)
    return np.where(neither, 0.0, size)


def _first(where: np.ndarray) -> int | None:
    found = np.flatnonzero(where)
    return int(found[0]) if len(found) else None
