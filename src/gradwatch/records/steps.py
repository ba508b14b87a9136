"""Optimizer steps: one on a log step, with all since the record before it, and the last ones at full rate."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - codec reads the annotations
from dataclasses import dataclass
from typing import ClassVar

from gradwatch.records.layers import LayerNorms  # noqa: TC001 - as above
from gradwatch.records.shared import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipState:
    """What clipping did at one step: gradients were multiplied by ``coefficient`` (1.0 when nothing was done)."""

    max_norm: float | None
    coefficient: float
    clipped: bool
    rate: float
    largest_layer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Every optimizer step since the last record, this one included, so that no spike falls between two records."""

    steps: int
    grad_norm_max: float | None
    grad_norm_max_step: int | None
    loss_max: float | None
    clipped_steps: int
    skipped_steps: int
    nonfinite_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """What thinning of a long log has put together: a record that stands for ``records`` log steps, the last of them.

    Ranges are the least and the largest finite value at those log steps, None where there was none. Those of layers,
    and the number of non-finite gradient elements, are lists in the order of the record's ``layers``.
    """

    records: int
    first_step: int
    first_log_step: int
    loss: list[float] | None
    grad_norm: list[float] | None
    layer_nonfinite: list[int]
    layer_grad_norm: list[list[float] | None]
    layer_weight_norm: list[list[float] | None]
    layer_update_ratio: list[list[float] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord(Event):
    """One optimizer step on a log step, over the parameters of that optimizer.

    ``loss`` is the user's own: the mean of the losses backpropagated since this optimizer's last step, neither
    divided by accumulation nor multiplied by the loss scale. ``log_step`` is the x-axis of the loggers;
    ``skipped_steps`` and ``nonfinite_steps`` count from the start of the run, or of those before it: see ``RunStart``.
    """

    type: ClassVar[str] = "step"

    optimizer: int
    log_step: int
    loss: float | None
    grad_norm: float | None
    clip: ClipState
    lr: float | None
    lr_groups: list[float]
    loss_scale: float | None
    skipped_steps: int
    nonfinite_steps: int
    window: Window
    pooled: Pooled | None = None
    layers: Mapping[str, LayerNorms]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSteps(Event):
    """The last optimizer steps at full rate, oldest first, as they were when something happened.

    ``reason`` says what: ``"finding <code>"``, ``"incident"``, ``"end"``, or ``"killed"`` where they were found in the
    ring file of a run that could not say how it ended. All lists have one entry a step; ``layers`` has the gradient
    norms before clipping, None where there was no gradient. ``lr`` is that of the first parameter group.
    """

    type: ClassVar[str] = "last_steps"

    optimizer: int
    reason: str
    steps: list[int]
    epochs: list[int]
    batches: list[int | None]
    loss: list[float | None]
    grad_norm: list[float | None]
    coefficient: list[float]
    lr: list[float | None]
    loss_scale: list[float | None]
    skipped: list[bool]
    layers: dict[str, list[float | None]]
