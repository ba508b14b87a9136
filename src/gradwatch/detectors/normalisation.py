"""Batch normalisation whose statistics are poor, ruined, or never learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradwatch.detectors.catalogue import normalisation as rules
from gradwatch.detectors.detector import Limits, Reading, Sign, detector

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradwatch.observations import BatchNormState, Observation


def _small_batch(seen: Observation, limits: Limits) -> Reading | None:
    def strength(state: BatchNormState) -> float:
        return limits["samples"] / max(state.samples, 1) if state.training else 0.0

    return _each(seen, strength, lambda state: {"samples": state.samples})


def _nonfinite(seen: Observation, _limits: Limits) -> Reading | None:
    return _each(seen, lambda state: float(not state.finite), lambda _: {})


def _frozen(seen: Observation, _limits: Limits) -> Reading | None:
    def evidence(state: BatchNormState) -> dict[str, object]:
        return {"training": state.training, "mode": "training" if state.training else "evaluation"}

    return _each(seen, lambda state: float(state.at_start), evidence)


def _each(
    seen: Observation,
    strength: Callable[[BatchNormState], float],
    evidence: Callable[[BatchNormState], dict[str, object]],
) -> Reading | None:
    if seen.forward is None or not seen.forward.batch_norms:
        return None
    states = seen.forward.batch_norms
    values = np.array([strength(state) for state in states])
    return Reading(values, [state.module for state in states], lambda i: Sign(evidence(states[i])))


DETECTORS = (
    detector(rules.SMALL_BATCH, _small_batch, needs="forward"),
    detector(rules.NONFINITE, _nonfinite, needs="forward"),
    detector(rules.FROZEN, _frozen, needs="forward"),
)
