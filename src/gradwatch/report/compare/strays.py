"""Among the seeds of one experiment, the run that leaves the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.report.compare.outcomes import Prepared

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gradwatch.report.compare.outcomes import CurveComparison, Stretch

LEAST_RUNS = 4  # two others have one degree of freedom between them, with which nothing is seen


class Stray(NamedTuple):
    """A run, by its label, and where one of its curves is beyond the spread of the other runs."""

    label: str
    quantity: str
    optimizer: int
    stretches: tuple[Stretch, ...]


def strays(labels: Sequence[str], curves: Sequence[CurveComparison], level: float) -> list[Stray]:
    """Return the runs of an only group that leave the others, the earliest first.

    Each is compared with the others as one group with another; ``level`` is how often any run of a group without a
    stray is said to be one.
    """
    if len(labels) < LEAST_RUNS:
        return []
    each = level / (len(labels) * max(len(curves), 1))
    found = [stray for curve in curves for stray in _of_curve(labels, curve, each)]
    return sorted(found, key=lambda stray: stray.stretches[0].first)


def _of_curve(labels: Sequence[str], curve: CurveComparison, level: float) -> Iterator[Stray]:
    (values,) = curve.values
    if len(values) != len(labels):  # of several optimizers, some runs may lack one
        return
    for row, label in enumerate(labels):
        others = np.delete(values, row, axis=0)
        outcome = Prepared(others, values[row : row + 1], curve.steps, curve.domain).outcome(level)
        if outcome is not None and outcome.stretches:
            yield Stray(label, curve.quantity, curve.optimizer, outcome.stretches)
