"""The last steps at full rate, and what happened since the last record."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.records import Window

if TYPE_CHECKING:
    import numpy as np

RING_STEPS = 64


class StepRow(NamedTuple):
    """One optimizer step in host numbers; ``norms`` are per parameter, shape [n], ``lr`` per parameter group."""

    step: int
    epoch: int
    batch_idx: int | None
    loss: float | None
    grad_norm: float
    coefficient: float
    norms: np.ndarray
    lr: tuple[Any, ...] = ()


@dataclass(slots=True)
class History:
    """A ring of the last rows of one optimizer, and the extremes since its last record."""

    rows: deque[StepRow] = field(default_factory=lambda: deque(maxlen=RING_STEPS))
    steps: int = 0
    grad_norm_max: float = -math.inf
    grad_norm_max_step: int | None = None
    loss_max: float = -math.inf
    clipped: int = 0
    skipped: int = 0
    nonfinite: int = 0

    def add(self, row: StepRow, *, skipped: bool = False, nonfinite: bool = False) -> None:
        """Add one step. Non-finite values are counted and stay out of the extremes, which they would freeze."""
        self.rows.append(row)
        self.steps += 1
        self.clipped += row.coefficient < 1.0
        self.skipped += skipped
        self.nonfinite += nonfinite
        if self.grad_norm_max < row.grad_norm < math.inf:
            self.grad_norm_max, self.grad_norm_max_step = row.grad_norm, row.step
        if row.loss is not None and self.loss_max < row.loss < math.inf:
            self.loss_max = row.loss

    def close_window(self) -> Window:
        """Return what happened since the last call, and start anew."""
        window = Window(
            steps=self.steps,
            grad_norm_max=_finite(self.grad_norm_max),
            grad_norm_max_step=self.grad_norm_max_step,
            loss_max=_finite(self.loss_max),
            clipped_steps=self.clipped,
            skipped_steps=self.skipped,
            nonfinite_steps=self.nonfinite,
        )
        self.steps = self.clipped = self.skipped = self.nonfinite = 0
        self.grad_norm_max = self.loss_max = -math.inf
        self.grad_norm_max_step = None
        return window


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
