"""What is said of one curve: of a group against the first, or of one run against one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.report.compare.pair import apart
from gradwatch.report.compare.parting import judge
from gradwatch.report.compare.smoothing import known_median
from gradwatch.report.compare.spread import Band, Domain, band
from gradwatch.report.compare.windows import WINDOWS, Windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradwatch.report.compare.alignment import Steps
    from gradwatch.report.compare.arrays import Floats


class Stretch(NamedTuple):
    """Steps over which two groups differ; ``last`` is None where they do to the end."""

    first: int
    last: int | None
    larger: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOutcome:
    """A group against the first one, beyond the spread of the seeds.

    ``larger`` of a stretch: this group's values are the larger ones. ``resolution`` is the relative difference that
    would just have been seen; infinite where there are too few runs.
    """

    stretches: tuple[Stretch, ...]
    resolution: float

    @property
    def step(self) -> int | None:
        """The step from which they differ."""
        return self.stretches[0].first if self.stretches else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOutcome:
    """One run against one: steps at which they differ at all, visibly, and in that one alone is not finite.

    ``size`` is the relative difference at ``step``, ``largest`` the largest at any. ``alike`` counts the steps before
    ``step``, all of them bit for bit the same.
    """

    step: int | None
    size: float
    visible: int | None
    nonfinite: int | None
    largest: float
    alike: int


Outcome = GroupOutcome | PairOutcome


class Ending(NamedTuple):
    """The last sixteenth of the steps that all groups have: mean over the runs, standard deviation to both sides.

    Both are in the curve's domain; ``runs`` is the number of runs, ``nonfinite`` that of those which were NaN or
    infinite there and are in none of this.
    """

    mean: float
    low: float
    high: float
    runs: int
    nonfinite: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CurveComparison:
    """One curve of all groups: ``values`` has an array [runs, steps] a group, as recorded.

    ``layer`` is None for curves of the whole model. ``shared`` marks the steps at which every group has a run (all
    steps if there are none). ``outcomes`` has one entry for each group but the first, None
    where there is nothing to compare.
    """

    quantity: str
    layer: str | None
    optimizer: int
    domain: Domain
    steps: Steps
    values: tuple[Floats, ...]
    shared: NDArray[np.bool_]
    outcomes: tuple[Outcome | None, ...]

    def bands(self) -> list[Band]:
        """Return mean and spread of each group."""
        return [band(self.domain.into(values), self.domain) for values in self.values]

    def endings(self) -> list[Ending]:
        """Return how each group ended."""
        return [self._ending(values) for values in self.values]

    def ratios(self) -> list[float]:
        """Return how many times the mean of the first group that of each other group is at the end."""
        first, *others = (ending.mean for ending in self.endings())
        return [other / first if first else math.nan for other in others]

    @property
    def step(self) -> int | None:
        """The first step at which a group differs from the first one."""
        return min((outcome.step for outcome in self.outcomes if outcome and outcome.step is not None), default=None)

    def _ending(self, values: Floats) -> Ending:
        values = values[:, self.shared]
        values = values[:, -max(1, math.ceil(values.shape[1] / WINDOWS)) :]
        tail = self.domain.into(values)
        if not tail.size:
            return Ending(math.nan, math.nan, math.nan, 0)
        end = band(known_median(tail)[:, np.newaxis], self.domain)
        nonfinite = np.isinf(values).any(axis=1) & np.isnan(tail).all(axis=1)
        return Ending(float(end.mean[0]), float(end.low[0]), float(end.high[0]), int(end.runs[0]), int(nonfinite.sum()))


class Prepared:
    """Two groups of curves, [runs, steps] as recorded, where both have a value; compared in ``domain``."""

    def __init__(self, one: Floats, other: Floats, steps: Steps, domain: Domain) -> None:
        a, b = domain.into(one), domain.into(other)
        both = ~np.isnan(a).all(axis=0) & ~np.isnan(b).all(axis=0)
        self._steps, self._domain = steps[both], domain
        self.windows = Windows(a[:, both], b[:, both]) if both.any() else None

    def outcome(self, level: float) -> GroupOutcome | None:
        """Return where they part, None if they have nothing in common; ``level`` as for ``compare_groups``."""
        if self.windows is None:
            return None
        verdict, steps = judge(self.windows, level), self._steps
        return GroupOutcome(
            stretches=tuple(
                Stretch(int(steps[first]), None if last is None else int(steps[last]), sign < 0)
                for first, last, sign in verdict.stretches
            ),
            resolution=_relative(verdict.resolution, self._domain),
        )


def pair_outcome(one: Floats, other: Floats, steps: Steps) -> PairOutcome | None:
    """Compare two runs, [steps] as recorded, where both have a value; None if that is nowhere."""
    known = ~(np.isnan(one) | np.isnan(other))
    if not known.any():
        return None
    steps = steps[known]
    found = apart(one[known], other[known])

    def step(position: int | None) -> int | None:
        return None if position is None else int(steps[position])

    return PairOutcome(
        step=step(found.first),
        size=found.first_size,
        visible=step(found.visible),
        nonfinite=step(found.nonfinite),
        largest=found.largest,
        alike=len(steps) if found.first is None else found.first,
    )


def _relative(difference: float, domain: Domain) -> float:
    """Return a difference in ``domain`` relative to the values: in logarithms e^d - 1, else in typical sizes."""
    try:
        return math.expm1(difference) if domain.logarithmic else difference
    except OverflowError:
        return math.inf
