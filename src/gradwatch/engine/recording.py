"""The record of one optimizer step on a log step: begun before the optimizer acts, finished after it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gradwatch.capture.environment import learning_rates
from gradwatch.capture.gradients import without_underflow
from gradwatch.capture.host_norms import as_array
from gradwatch.capture.optimizer_state import below_epsilon
from gradwatch.capture.peaks import Largest
from gradwatch.capture.scaling import unscales_itself
from gradwatch.capture.underflow import subnormal
from gradwatch.capture.updates import layer_updates, weights_before
from gradwatch.observations import Layers
from gradwatch.records import ClipState, LayerTable, StepRecord

if TYPE_CHECKING:
    from array import array

    from torch import Tensor

    from gradwatch.capture.gradients import Gradients
    from gradwatch.capture.history import History, StepRow
    from gradwatch.capture.parameters import ParameterGroup
    from gradwatch.records import Window


class Position(NamedTuple):
    """Where in the run: the Trainer's ``global_step``, epoch, batch, and the loggers' x-axis."""

    step: int
    epoch: int
    batch_idx: int | None
    log_step: int


class TakenStep(NamedTuple):
    """One optimizer step as it was judged. ``nonfinite``: loss or gradients are bad; ``skipped``: no update follows."""

    position: Position
    group: ParameterGroup
    gradients: Gradients
    coefficient: float = 1.0
    loss_scale: float | None = None
    batch_size: int | None = None
    nonfinite: bool = False
    skipped: bool = False


class Totals(NamedTuple):
    """Counts since the start of the run, and the share of steps that were clipped."""

    skipped_steps: int
    nonfinite_steps: int
    clip_rate: float


@dataclass(frozen=True, slots=True)
class PendingRecord:
    """What is known of a step before its optimizer has acted.

    ``max_norm`` is the limit of the clip rule, ``weights`` are copies of the weights. ``rows`` are all steps since the
    last record, ``largest`` the largest norms at any of them. By layer: ``grad_norms``, 0 where there is no gradient;
    ``with_gradient``; ``subnormal``, the share of the gradient that fp16 holds as subnormal numbers (NaN in other
    formats).
    """

    step: TakenStep
    max_norm: float | None
    loss: float | None
    window: Window
    totals: Totals
    lr: list[float]
    weights: list[Tensor]
    rows: list[StepRow]
    largest: Largest
    grad_norms: np.ndarray
    with_gradient: np.ndarray
    subnormal: np.ndarray

    def measure(self, *, at_start: bool) -> Layers:
        """Return what the step was to each layer, now that its optimizer has acted.

        ``at_start``: at the first log steps, optimizer state is looked at as well.
        """
        group = self.step.group
        updates = layer_updates(group, self.weights)
        return Layers(
            names=group.layers,
            elements=group.elements,
            is_weight=group.is_weight,
            grad_norm=np.where(self.with_gradient, self.grad_norms, np.nan),
            grad_norm_max=self.largest.layers,
            weight_norm=updates.norms,
            update_ratio=updates.ratios,
            lr=group.layer_rates(),
            unchanged=updates.unchanged,
            below_epsilon=below_epsilon(group) if at_start else np.full(len(group.layers), np.nan),
            subnormal=self.subnormal,
        )

    def record(self, header: dict[str, Any], layers: Layers) -> StepRecord:
        """Return the record of the step with the layers that ``measure`` has returned."""
        step, coefficient = self.step, self.step.coefficient
        clip = ClipState(
            max_norm=self.max_norm,
            coefficient=coefficient,
            clipped=coefficient < 1.0,
            rate=self.totals.clip_rate,
            largest_layer=layers.names[int(np.argmax(self.grad_norms))] if step.gradients.norms else None,
        )
        return StepRecord(
            **header,
            optimizer=step.group.index,
            log_step=step.position.log_step,
            loss=self.loss,
            grad_norm=step.gradients.total if step.gradients.norms else None,
            clip=clip,
            lr=self.lr[0] if self.lr else None,
            lr_groups=self.lr,
            loss_scale=step.loss_scale,
            skipped_steps=self.totals.skipped_steps,
            nonfinite_steps=self.totals.nonfinite_steps,
            window=self.window,
            layers=self._layer_table(layers),
        )

    def instead_of(self, begun: PendingRecord) -> PendingRecord:
        """Return the record with the steps before it, which one that was begun for the same step has taken."""
        window = dataclasses.replace(
            begun.window,
            skipped_steps=begun.window.skipped_steps + self.window.skipped_steps,
            nonfinite_steps=begun.window.nonfinite_steps + self.window.nonfinite_steps,
        )
        largest = Largest(*map(np.maximum, begun.largest, self.largest))
        return dataclasses.replace(self, window=window, rows=[*begun.rows[:-1], *self.rows], largest=largest)

    def clipped_to(self, total: float) -> PendingRecord:
        """Return the record with the clipping that was measured instead of computed."""
        before = self.step.gradients.total
        coefficient = total / before if before > 0 else 1.0
        return dataclasses.replace(self, step=self.step._replace(coefficient=coefficient))

    def _layer_table(self, layers: Layers) -> LayerTable:
        columns = {
            "grad_norm": layers.grad_norm,
            "weight_norm": layers.weight_norm,
            "update_ratio": layers.update_ratio,
            "nonfinite": nonfinite_by_layer(self.step.group, self.step.gradients),
            "grad_norm_max": layers.grad_norm_max,
        }
        missing = {"grad_norm": ~self.with_gradient, "update_ratio": np.isnan(layers.update_ratio)}
        return LayerTable(
            layers.names,
            {field: as_array(column.astype(np.float64)) for field, column in columns.items()},
            {field: np.flatnonzero(where).tolist() for field, where in missing.items()},
        )


def begin_record(
    step: TakenStep, history: History, *, loss: float | None, max_norm: float | None, totals: Totals, fp16: bool
) -> PendingRecord:
    """Note rates and weights as they are before the optimizer acts, and close the window of the last steps."""
    group = step.group
    still_scaled = unscales_itself(group.optimizer)
    exact = without_underflow(step.gradients, step.loss_scale if still_scaled else None)
    return PendingRecord(
        # The gradients themselves are the optimizer's now.
        step=step._replace(gradients=exact._replace(tensors=[])),
        max_norm=max_norm,
        loss=loss,
        window=history.close_window(),
        totals=totals,
        lr=learning_rates(group.optimizer),
        weights=weights_before(group),
        largest=history.peaks.take(group),
        grad_norms=gradient_norms(group, exact),
        with_gradient=has_gradient(group, exact),
        rows=history.take_rows(),
        subnormal=subnormal(group, exact, None if still_scaled else step.loss_scale)
        if fp16
        else np.full(len(group.layers), np.nan),
    )


def spread(group: ParameterGroup, gradients: Gradients) -> array[float]:
    """Return the norm of each parameter's gradient, 0 where there is none."""
    if len(gradients.positions) == len(group.parameters):
        return gradients.norms
    norms = np.zeros(len(group.parameters))
    norms[gradients.positions] = gradients.norms
    return as_array(norms)


def gradient_norms(group: ParameterGroup, gradients: Gradients) -> np.ndarray:
    """Return the norm of each layer's gradient, 0 where there is none, shape [layers]."""
    return group.layer_norms(np.asarray(spread(group, gradients)))


def has_gradient(group: ParameterGroup, gradients: Gradients) -> np.ndarray:
    """Return which layers have a gradient, bool, shape [layers]."""
    if len(gradients.positions) == len(group.parameters):
        return np.ones(len(group.layers), dtype=bool)
    present: np.ndarray = np.bincount(group.layer_index[gradients.positions], minlength=len(group.layers)) > 0
    return present


def nonfinite_by_layer(group: ParameterGroup, gradients: Gradients) -> np.ndarray:
    """Return how many gradient elements of each layer are NaN or inf, shape [layers]."""
    if gradients.counts is None:
        return np.zeros(len(group.layers))
    return np.bincount(
        group.layer_index[gradients.positions], weights=gradients.counts.sum(axis=1), minlength=len(group.layers)
    )


def largest_layer(group: ParameterGroup, gradients: Gradients) -> str | None:
    """Return the layer with the largest part in the total norm."""
    if not gradients.norms:
        return None
    return group.layers[int(np.argmax(gradient_norms(group, gradients)))]
