"""The record of one optimizer step on a log step: begun before the optimizer acts, finished after it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gradwatch.capture.environment import learning_rates
from gradwatch.capture.updates import WeightsBefore, layer_update_ratios, weights_before
from gradwatch.records import ClipState, LayerNorms, StepRecord

if TYPE_CHECKING:
    from gradwatch.capture.gradients import Gradients
    from gradwatch.capture.parameters import ParameterGroup
    from gradwatch.records import Window


class Position(NamedTuple):
    """Where in the run: the Trainer's ``global_step``, epoch, batch, and the loggers' x-axis."""

    step: int
    epoch: int
    batch_idx: int | None
    log_step: int


@dataclass(frozen=True, slots=True)
class PendingRecord:
    """What is known of a step before its optimizer has acted."""

    position: Position
    group: ParameterGroup
    gradients: Gradients
    clip: ClipState
    loss: float | None
    loss_scale: float | None
    window: Window
    skipped_steps: int
    nonfinite_steps: int
    lr: list[float]
    weights: WeightsBefore

    def finish(self, header: dict[str, Any]) -> StepRecord:
        """Measure the update and return the record."""
        return StepRecord(
            **header,
            optimizer=self.group.index,
            log_step=self.position.log_step,
            loss=self.loss,
            grad_norm=self.gradients.total if self.gradients.norms.size else None,
            clip=self.clip,
            lr=self.lr[0] if self.lr else None,
            lr_groups=self.lr,
            loss_scale=self.loss_scale,
            skipped_steps=self.skipped_steps,
            nonfinite_steps=self.nonfinite_steps,
            window=self.window,
            layers=self._layers(),
        )

    def clipped_to(self, total: float) -> PendingRecord:
        """Return the record with the clipping that was measured instead of computed."""
        before = self.gradients.total
        coefficient = total / before if before > 0 else 1.0
        clip = dataclasses.replace(self.clip, coefficient=coefficient, clipped=coefficient < 1.0)
        return dataclasses.replace(self, clip=clip)

    def _layers(self) -> dict[str, LayerNorms]:
        gradients = self.group.layer_norms(spread(self.group, self.gradients))
        with_gradient = np.bincount(self.group.layer_index[self.gradients.positions], minlength=len(self.group.layers))
        weights = self.group.layer_norms(self.weights.norms)
        ratios = layer_update_ratios(self.group, self.weights)
        nonfinite = nonfinite_by_layer(self.group, self.gradients)
        return {
            layer: LayerNorms(
                grad_norm=float(gradients[i]) if with_gradient[i] else None,
                weight_norm=float(weights[i]),
                update_ratio=ratios[i],
                nonfinite=int(nonfinite[i]),
            )
            for i, layer in enumerate(self.group.layers)
        }


def begin_record(
    position: Position,
    group: ParameterGroup,
    gradients: Gradients,
    clip: ClipState,
    *,
    loss: float | None,
    loss_scale: float | None,
    window: Window,
    skipped_steps: int,
    nonfinite_steps: int,
) -> PendingRecord:
    """Note rates and weights as they are before the optimizer acts."""
    return PendingRecord(
        position,
        group,
        gradients._replace(tensors=[]),  # the gradients themselves are the optimizer's now
        clip,
        loss,
        loss_scale,
        window,
        skipped_steps,
        nonfinite_steps,
        learning_rates(group.optimizer),
        weights_before(group),
    )


def spread(group: ParameterGroup, gradients: Gradients) -> np.ndarray:
    """Return the norms by parameter, shape [len(group.parameters)], 0 where there is no gradient."""
    if len(gradients.positions) == len(group.parameters):
        return gradients.norms
    norms = np.zeros(len(group.parameters))
    norms[gradients.positions] = gradients.norms
    return norms


def nonfinite_by_layer(group: ParameterGroup, gradients: Gradients) -> np.ndarray:
    """Return how many gradient elements of each layer are NaN or inf, shape [layers]."""
    if gradients.counts is None:
        return np.zeros(len(group.layers))
    return np.bincount(
        group.layer_index[gradients.positions], weights=gradients.counts.sum(axis=1), minlength=len(group.layers)
    )


def largest_layer(group: ParameterGroup, gradients: Gradients) -> str | None:
    """Return the layer with the largest part in the total norm."""
    if not gradients.norms.size:
        return None
    norms = group.layer_norms(spread(group, gradients))
    return group.layers[int(np.argmax(norms))]
