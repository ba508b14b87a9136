"""The detectors that are in force unless a user chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.detectors import (
    activations,
    clipping,
    data,
    distributed,
    gradients,
    huge_gradient,
    learning_rate,
    loss,
    mixed_precision,
    normalisation,
    probes,
    updates,
)

if TYPE_CHECKING:
    from gradwatch.detectors.detector import Detector

DETECTORS: tuple[Detector, ...] = (
    *gradients.DETECTORS,
    *huge_gradient.DETECTORS,
    *updates.DETECTORS,
    *clipping.DETECTORS,
    *learning_rate.DETECTORS,
    *loss.DETECTORS,
    *mixed_precision.DETECTORS,
    *activations.DETECTORS,
    *data.DETECTORS,
    *normalisation.DETECTORS,
    *distributed.DETECTORS,
    *probes.DETECTORS,
)
