"""Curves of several runs on one step axis: nothing is interpolated."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradwatch.report.compare.smoothing import known_median

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.report.compare.arrays import Floats

Steps = NDArray[np.int64]
_NONE = -1


class Alignment(NamedTuple):
    """The steps at which runs are compared, and which records of each run count there.

    ``picks`` has an array [steps, records] of positions for each run, filled up with -1. ``bin`` is None where the
    runs have these very steps; else it is the number of steps that are looked at together.
    """

    steps: Steps
    picks: tuple[Steps, ...]
    bin: int | None

    def of(self, run: int, values: Floats) -> Floats:
        """Return values [..., records] of a run at the common steps; NaN where it has none, the median of several."""
        pick = self.picks[run]
        if not values.shape[-1]:
            return np.full((*values.shape[:-1], len(self.steps)), np.nan)
        taken = np.where(pick == _NONE, np.nan, values[..., pick])
        return taken[..., 0] if taken.shape[-1] == 1 else known_median(taken)

    def present(self, run: int) -> NDArray[np.bool_]:
        """Return at which of the common steps a run has a record."""
        there: NDArray[np.bool_] = self.picks[run][:, 0] != _NONE
        return there

    def where(self, kept: NDArray[np.bool_]) -> Alignment:
        """Return the steps that are kept, as a mask [steps], alone."""
        return Alignment(self.steps[kept], tuple(pick[kept] for pick in self.picks), self.bin)

    def described(self) -> str:
        """Return in words what is compared."""
        if not len(self.steps):
            return "the runs have no steps in common"
        count = f"{len(self.steps):,}"
        if self.bin is None:
            return f"{count} common steps, {self.steps[0]} to {self.steps[-1]}"
        return f"{count} bins of {self.bin} steps (the runs were logged at different steps)"


def align(runs: Sequence[Steps]) -> Alignment:
    """Return where all runs can be compared: at each step, those that have begun and have not ended take part.

    A step counts if every run that was training then has a record of it. Where runs were logged at different steps,
    their records are put into bins as wide as the widest typical distance of records, if that gives over twice as
    many places to compare.
    """
    common = _counted(runs, list(runs))
    width = max((int(np.median(np.diff(steps))) for steps in runs if len(steps) > 1), default=1)
    if width < 1:
        return common
    binned = _counted(runs, [steps // width for steps in runs])
    if _shared(binned) <= 2 * _shared(common):
        return common
    return binned._replace(steps=binned.steps * width, bin=width)


def _shared(aligned: Alignment) -> int:
    """Return how many steps two runs or more have: one alone has nothing to be compared with."""
    there = np.array([aligned.present(run) for run in range(len(aligned.picks))])
    return int(np.count_nonzero(there.sum(axis=0) > 1))


def _counted(runs: Sequence[Steps], places: Sequence[Steps]) -> Alignment:
    """Return the places that every run has which covers them."""
    filled = [places[index] for index in range(len(runs)) if len(runs[index])]
    if not filled:
        return Alignment(np.empty(0, np.int64), tuple(np.empty((0, 1), np.int64) for _ in runs), None)
    every = np.unique(np.concatenate(filled))
    has = sum(np.isin(every, place).astype(int) for place in filled)
    covers = sum(((place[0] <= every) & (every <= place[-1])).astype(int) for place in filled)
    steps = every[has == covers]
    return Alignment(steps, tuple(_pick(place, steps) for place in places), None)


def _pick(places: Steps, wanted: Steps) -> Steps:
    """Return the positions in ``places``, which ascend, of each wanted place."""
    first, after = np.searchsorted(places, wanted, "left"), np.searchsorted(places, wanted, "right")
    most = int(max((after - first).max(initial=0), 1))
    positions = first[:, np.newaxis] + np.arange(most)
    return np.where(positions < after[:, np.newaxis], positions, _NONE)
