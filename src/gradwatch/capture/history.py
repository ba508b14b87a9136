"""The last steps at full rate, and what happened since the last record."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.capture.peaks import Peaks
from gradwatch.records import Window

if TYPE_CHECKING:
    from array import array

    import numpy as np

    from gradwatch.capture.parameters import ParameterGroup

RING_STEPS = 64
# Rows that wait for the next record: for a log step that hardly ever comes, memory stays bounded.
MAX_ROWS = 1024


class StepRow(NamedTuple):
    """One optimizer step in host numbers; ``lr`` per parameter group, ``skipped`` if its update did not happen."""

    step: int
    epoch: int
    batch_idx: int | None
    loss: float | None
    grad_norm: float
    coefficient: float
    lr: tuple[Any, ...] = ()
    loss_scale: float | None = None
    batch_size: int | None = None
    skipped: bool = False


class Source(NamedTuple):
    """Whose norms a row has: a group as it was then, and the parameters with a gradient (all of them if None)."""

    group: ParameterGroup
    positions: np.ndarray | None


@dataclass(slots=True)
class History:
    """The last steps of one optimizer, and what happened since its last record.

    ``rows``, ``norms`` (one a parameter) and ``sources`` are rings of the same steps; ``since`` has the rows
    since the last record, which may be more, ``peaks`` the largest norms since then. ``added`` counts the steps since
    the start.
    """

    rows: deque[StepRow] = field(default_factory=lambda: deque(maxlen=RING_STEPS))
    norms: deque[array[float]] = field(default_factory=lambda: deque(maxlen=RING_STEPS))
    sources: deque[Source | None] = field(default_factory=lambda: deque(maxlen=RING_STEPS))
    since: deque[StepRow] = field(default_factory=lambda: deque(maxlen=MAX_ROWS))
    peaks: Peaks = field(default_factory=Peaks)
    added: int = 0
    steps: int = 0
    grad_norm_max: float = -math.inf
    grad_norm_max_step: int | None = None
    loss_max: float = -math.inf
    clipped: int = 0
    skipped: int = 0
    nonfinite: int = 0

    def add(
        self,
        row: StepRow,
        norms: array[float],
        source: Source | None = None,
        *,
        nonfinite: bool = False,
        again: bool = False,
    ) -> None:
        """Add one step. Non-finite values are counted and stay out of the extremes, which they would freeze.

        ``again``: the last step was added as a good one, and has been spoilt after that. Between records it counts
        once; the rings keep both, as they tell what was there before.
        """
        if again and self.since:
            self.since.pop()
        self.rows.append(row)
        self.norms.append(norms)
        self.sources.append(source)
        if source is not None:
            self.peaks.add(source.group, norms)
        self.added += 1
        self.since.append(row)
        self.steps += not again
        self.clipped += row.coefficient < 1.0
        self.skipped += row.skipped
        self.nonfinite += nonfinite
        if self.grad_norm_max < row.grad_norm < math.inf:
            self.grad_norm_max, self.grad_norm_max_step = row.grad_norm, row.step
        if row.loss is not None and self.loss_max < row.loss < math.inf:
            self.loss_max = row.loss

    def take_rows(self) -> list[StepRow]:
        """Return the rows since the last call, oldest first: ``MAX_ROWS`` at most."""
        rows = list(self.since)
        self.since.clear()
        return rows

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
