"""The curves of a run that are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.report.compare.smoothing import known_median

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradwatch.report.compare.alignment import Steps as StepAxis
    from gradwatch.report.compare.arrays import Floats
    from gradwatch.report.steps import Steps

LOSS, NORM, RATE, RATIO = "loss", "gradient norm", "learning rate", "update ratio"
QUANTITIES = (LOSS, NORM, RATE, RATIO)


class Curves(NamedTuple):
    """What one optimizer of a run did, over ``steps``, which ascend.

    ``values`` has an array [records] for each of ``QUANTITIES``, ``layers`` the gradient norm of each layer,
    [layers, records]. The update ratio is the median over the layers. NaN is not known, infinite was not finite.
    """

    steps: StepAxis
    values: dict[str, Floats]
    names: tuple[str, ...]
    layers: Floats


def curves_of(table: Steps) -> Curves:
    """Return the curves of an optimizer; of several records of one step (dropped updates), the last counts."""
    order = np.argsort(table.step, kind="stable")
    steps = table.step[order]
    kept = order[np.append(np.diff(steps) != 0, True)] if len(steps) else order
    layers = table.layers
    values = {
        LOSS: _marked(table.loss, table.loss_bad),
        NORM: _marked(table.grad_norm, table.grad_norm_bad),
        RATE: table.lr,
        RATIO: _median_ratio(_marked(layers.update_ratio, layers.update_ratio_bad)),
    }
    return Curves(
        table.step[kept].astype(np.int64),
        {name: value[kept] for name, value in values.items()},
        layers.names,
        np.ascontiguousarray(_marked(layers.grad_norm, layers.grad_norm_bad)[kept].T),
    )


def joined(earlier: Curves, later: Curves) -> Curves:
    """Return the curves of a run and of the one that resumed it, as those of one training."""
    if not len(later.steps):
        return earlier
    kept = earlier.steps < later.steps[0]
    names = tuple(dict.fromkeys([*earlier.names, *later.names]))
    return Curves(
        np.concatenate([earlier.steps[kept], later.steps]),
        {name: np.concatenate([earlier.values[name][kept], later.values[name]]) for name in QUANTITIES},
        names,
        np.concatenate([_rows(earlier, names)[:, kept], _rows(later, names)], axis=1),
    )


def layer(curves: Curves, name: str) -> Floats:
    """Return the gradient norm of a layer; NaN where the run has no such layer."""
    row: Floats = _rows(curves, (name,))[0]
    return row


def _rows(curves: Curves, names: tuple[str, ...]) -> Floats:
    if names == curves.names:
        return curves.layers
    place = {name: row for row, name in enumerate(curves.names)}
    unknown = np.full(len(curves.steps), np.nan)
    rows = [curves.layers[place[name]] if name in place else unknown for name in names]
    return np.array(rows).reshape(len(names), len(curves.steps))


def _marked(values: Floats, bad: NDArray[np.bool_]) -> Floats:
    """Return values that are infinite where they were not finite, as NaN stands for what is not known."""
    marked: Floats = np.where(bad, np.inf, values)
    return marked


def _median_ratio(ratios: Floats) -> Floats:
    return known_median(ratios) if ratios.shape[1] else np.full(len(ratios), np.nan)
