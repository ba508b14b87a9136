"""A run in few numbers: the course of its curves, its worst layers, its last known state."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from gradwatch.records import LastSteps
    from gradwatch.report.run import Run
    from gradwatch.report.steps import Steps

# A gradient of exactly zero at this many records in a row is no accident of one batch.
DEAD_RECORDS = 3
# What is usual for a layer is the median of at least this many records, of at most that many of those before, and is
# computed anew this many times in a run.
MIN_USUAL, MAX_USUAL, USUALS = 4, 256, 32


class Course(NamedTuple):
    """How a curve went: first, least, largest and last value, over all optimizer steps as far as they are known.

    First and last are those of records, None where nothing was recorded; ``min`` and ``max`` are finite, NaN where no
    value was; ``max_step`` is the step of the record with the largest. ``nonfinite`` counts records with NaN or
    infinity.
    """

    first: float | None
    min: float
    max: float
    max_step: int
    last: float | None
    nonfinite: int


class LayerCourse(NamedTuple):
    """How the gradient norm of one layer went.

    ``growth`` is how far ``peak``, at ``peak_step``, stands above what was ``usual`` until then: the median of the
    records before. So the large gradients of the first steps are no growth. NaN where there are too few records;
    then ``usual`` is the median of all, and ``peak`` the largest value. ``nonfinite`` counts gradient elements.
    """

    name: str
    usual: float
    peak: float
    peak_step: int
    growth: float
    last: float
    nonfinite: int
    dead: bool


class LastState(NamedTuple):
    """The last optimizer step that is known; ``source`` says from where: ``last_steps`` or ``record``.

    None stands for "not known".
    """

    optimizer: int
    source: str
    step: int
    epoch: int
    loss: float | None
    grad_norm: float | None
    coefficient: float | None
    lr: float | None
    loss_scale: float | None


class Curve(NamedTuple):
    """A curve with the range that each record stands for, and where it was NaN or infinite."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bad: np.ndarray


def curves(steps: Steps) -> dict[str, Curve]:
    """Return the curves of one optimizer, those that have values."""
    plain = {"lr": steps.lr, "loss_scale": steps.loss_scale}
    found = {
        "loss": Curve(steps.loss, steps.loss_low, steps.loss_high, steps.loss_bad),
        "grad_norm": Curve(steps.grad_norm, steps.grad_norm_low, steps.grad_norm_high, steps.grad_norm_bad),
        **{name: Curve(value, value, value, np.isinf(value)) for name, value in plain.items()},
    }
    return {name: curve for name, curve in found.items() if curve.bad.any() or not np.isnan(curve.high).all()}


def course(step: np.ndarray, curve: Curve) -> Course:
    """Return how a curve went that has at least one value."""
    low, high = curve.low[np.isfinite(curve.low)], np.where(np.isfinite(curve.high), curve.high, -np.inf)
    known = np.flatnonzero(~np.isnan(curve.value) | curve.bad)
    most = int(np.argmax(high))
    return Course(
        first=float(curve.value[known[0]]) if known.size else None,
        min=float(low.min()) if low.size else math.nan,
        max=float(high[most]) if np.isfinite(high[most]) else math.nan,
        max_step=int(step[most]),
        last=_known(curve.value, bad=curve.bad),
        nonfinite=int(curve.bad.sum()),
    )


def layer_courses(steps: Steps) -> list[LayerCourse]:
    """Return all layers, the worst first: non-finite gradients, dead ones, then by growth."""
    layers = steps.layers
    if not layers.names or not len(steps):
        return []
    high = np.where(np.isfinite(layers.grad_norm_high), layers.grad_norm_high, np.nan)
    growth, usual, at = _growth(layers.grad_norm, high)
    columns = np.arange(len(layers.names))
    found = zip(
        layers.names,
        usual.tolist(),
        high[at, columns].tolist(),
        steps.step[at].tolist(),
        growth.tolist(),
        layers.grad_norm[-1].tolist(),
        layers.nonfinite.sum(axis=0).tolist(),
        _dead(layers.grad_norm).tolist(),
        strict=True,
    )
    return sorted(itertools.starmap(LayerCourse, found), key=badness)


def last_states(run: Run) -> list[LastState]:
    """Return the last known step of each optimizer, from whatever was written last."""
    states = {steps.optimizer: _of_record(steps) for steps in run.steps if len(steps)}
    for optimizer, last in newest_last_steps(run).items():
        before = states.get(optimizer)
        if before is None or last.steps[-1] >= before.step:
            states[optimizer] = _of_last_steps(last)
    return [states[optimizer] for optimizer in sorted(states)]


def newest_last_steps(run: Run) -> dict[int, LastSteps]:
    """Return the newest steps at full rate of each optimizer, of the lowest rank that has them."""
    newest: dict[int, LastSteps] = {}
    for last in run.last_steps:
        if not last.steps:
            continue
        before = newest.get(last.optimizer)
        if before is None or (-last.rank, last.steps[-1], last.time) >= (-before.rank, before.steps[-1], before.time):
            newest[last.optimizer] = last
    return newest


def _of_record(steps: Steps) -> LastState:
    return LastState(
        steps.optimizer,
        "record",
        int(steps.step[-1]),
        int(steps.epoch[-1]),
        _known(steps.loss, bad=steps.loss_bad),
        _known(steps.grad_norm, bad=steps.grad_norm_bad),
        _known(steps.coefficient),
        _known(steps.lr),
        _known(steps.loss_scale),
    )


def _of_last_steps(last: LastSteps) -> LastState:
    values = (column[-1] for column in (last.loss, last.grad_norm, last.coefficient, last.lr, last.loss_scale))
    return LastState(last.optimizer, "last_steps", last.steps[-1], last.epochs[-1], *values)


def _known(column: np.ndarray, *, bad: np.ndarray | None = None) -> float | None:
    """Return the last value; None where NaN stands for "not known"."""
    value = float(column[-1])
    return None if math.isnan(value) and (bad is None or not bad[-1]) else value


def _growth(value: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the largest growth of each column, what was usual before it, and its row; see ``LayerCourse``.

    The median of all that was before each record would cost too much: it is computed for blocks of records, from what
    was before the block.
    """
    rows = len(value)
    growth = np.full(value.shape[1], np.nan)
    usual = _medians(value[:: max(1, rows // MAX_USUAL)])
    at = np.argmax(np.where(np.isnan(high), -np.inf, high), axis=0)
    for start, stop in itertools.pairwise([*range(MIN_USUAL, rows, max(1, rows // USUALS)), rows]):
        before = _medians(value[: start : max(1, start // MAX_USUAL)])
        most = np.argmax(np.where(np.isnan(high[start:stop]), -np.inf, high[start:stop]), axis=0) + start
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            here = np.where(before > 0, high[most, np.arange(len(most))] / before, np.nan)
        greater = ~np.isnan(here) & ~(here <= growth)
        growth[greater], usual[greater], at[greater] = here[greater], before[greater], most[greater]
    return growth, usual, at


def _medians(value: np.ndarray) -> np.ndarray:
    """Return the median of the finite values of each column; NaN where there are none."""
    finite = np.where(np.isfinite(value), value, np.nan)
    ordered = np.sort(finite, axis=0)  # NaN behind all others
    known = (~np.isnan(finite)).sum(axis=0)
    columns = np.arange(value.shape[1])
    low, high = np.maximum(known - 1, 0) // 2, np.minimum(known // 2, len(value) - 1)
    median: np.ndarray = 0.5 * ordered[low, columns] + 0.5 * ordered[high, columns]
    return median


def _dead(grad_norm: np.ndarray) -> np.ndarray:
    """Return which layers have had a gradient of zero at the last records."""
    if len(grad_norm) < DEAD_RECORDS:
        return np.zeros(grad_norm.shape[1], dtype=bool)
    dead: np.ndarray = (grad_norm[-DEAD_RECORDS:] == 0).all(axis=0)
    return dead


def badness(layer: LayerCourse) -> tuple[bool, bool, float]:
    """Return what sorts layers, the worst first."""
    return layer.nonfinite == 0, not layer.dead, -layer.growth if layer.growth > 0 else 0.0
