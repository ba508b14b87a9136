"""Records whose numbers are NaN or infinite, and whether that lasts to the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gradwatch.report.steps import Steps


def is_bad(steps: Steps) -> NDArray[np.bool_]:
    """Return at which records the loss or the gradient norm was not finite, shape [records].

    Under a loss scale the norm does not count: now and then it overflows, and the scale is lowered.
    """
    bad: NDArray[np.bool_] = steps.loss_bad | (steps.grad_norm_bad & np.isnan(steps.loss_scale))
    return bad


def to_the_end(bad: NDArray[np.bool_]) -> int | None:
    """Return the first of the records that are bad up to the last one; None if the last one is not."""
    fine = np.flatnonzero(~bad)
    first = int(fine[-1]) + 1 if fine.size else 0
    return first if first < len(bad) else None
