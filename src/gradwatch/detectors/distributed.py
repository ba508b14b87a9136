"""Ranks whose weights or gradients are not the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradwatch.detectors.catalogue import distributed as rules
from gradwatch.detectors.detector import Limits, Reading, Sign, detector, whole_run

if TYPE_CHECKING:
    from gradwatch.observations import Observation


def _weights(seen: Observation, limits: Limits) -> Reading | None:
    return None if seen.ranks is None else _difference(seen, seen.ranks.weight_norm, limits)


def _gradients(seen: Observation, limits: Limits) -> Reading | None:
    if seen.ranks is None:
        return None
    norms = seen.ranks.grad_norm
    if np.isinf(norms).any():  # an overflow: the incident has it
        return None
    return _difference(seen, np.nan_to_num(norms), limits)


def _difference(seen: Observation, norms: np.ndarray, limits: Limits) -> Reading | None:
    """Compare norms of shape [ranks, layers]."""
    if not np.isfinite(norms).all():
        return None
    largest, smallest = norms.max(axis=0), norms.min(axis=0)
    relative = (largest - smallest) / np.where(largest > 0, largest, 1.0)
    layer = int(np.argmax(relative))

    def explain() -> Sign:
        low, high = int(norms[:, layer].argmin()), int(norms[:, layer].argmax())
        evidence = {"low": low, "high": high, "smallest": float(smallest[layer]), "largest": float(largest[layer])}
        return Sign(evidence, layer=seen.layers.names[layer])

    return whole_run(float(relative[layer]) / limits["difference"], explain)


DETECTORS = (
    detector(rules.WEIGHTS, _weights, needs="ranks"),
    detector(rules.GRADIENTS, _gradients, needs="ranks"),
)
