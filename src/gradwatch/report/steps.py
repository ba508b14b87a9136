"""The step records of one optimizer as numpy columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layers:
    """Values by record and layer, arrays of shape [records, layers], ``names`` in the order of the model.

    NaN stands for "not known": no gradient, no such layer yet. ``low`` and ``high`` are the range over the log steps
    that a record stands for, which is its own value unless thinning has pooled it; ``grad_norm_high`` is over all
    optimizer steps since the record before, where that was written. ``bad`` marks values that were NaN or infinite,
    where NaN alone may also stand for "not known". ``nonfinite`` counts NaN and infinite gradient elements over the log
    steps.
    """

    names: tuple[str, ...]
    grad_norm: np.ndarray
    grad_norm_low: np.ndarray
    grad_norm_high: np.ndarray
    grad_norm_bad: np.ndarray
    weight_norm: np.ndarray
    weight_norm_low: np.ndarray
    weight_norm_high: np.ndarray
    weight_norm_bad: np.ndarray
    update_ratio: np.ndarray
    update_ratio_low: np.ndarray
    update_ratio_high: np.ndarray
    update_ratio_bad: np.ndarray
    nonfinite: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steps:
    """The records of one optimizer in the order written, arrays of shape [records].

    Floats are NaN where something is not known, and infinite where it was; ``loss_bad`` and ``grad_norm_bad`` mark
    what was NaN or infinite, where NaN alone may also stand for "not known". ``low`` and ``high`` are ranges over the
    optimizer steps since the record before, as far as they are known: ``loss_high`` and ``grad_norm_high`` over all of
    them, the lows over those log steps that thinning has pooled. ``records`` is the number of log steps that a record
    stands for, ``first_step`` the first of them; the ``window`` columns count optimizer steps.
    """

    optimizer: int
    step: np.ndarray
    log_step: np.ndarray
    epoch: np.ndarray
    time: np.ndarray
    loss: np.ndarray
    loss_low: np.ndarray
    loss_high: np.ndarray
    loss_bad: np.ndarray
    grad_norm: np.ndarray
    grad_norm_low: np.ndarray
    grad_norm_high: np.ndarray
    grad_norm_bad: np.ndarray
    grad_norm_max_step: np.ndarray
    lr: np.ndarray
    lr_groups: np.ndarray
    loss_scale: np.ndarray
    coefficient: np.ndarray
    clipped: np.ndarray
    clip_rate: np.ndarray
    max_norm: np.ndarray
    skipped_steps: np.ndarray
    nonfinite_steps: np.ndarray
    window_steps: np.ndarray
    window_clipped: np.ndarray
    window_skipped: np.ndarray
    window_nonfinite: np.ndarray
    records: np.ndarray
    first_step: np.ndarray
    layers: Layers

    def __len__(self) -> int:
        """How many records there are."""
        return len(self.step)
