"""Whether the limit of gradient clipping fits the norms that it meets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.detectors.catalogue import clipping as rules
from gradwatch.detectors.detector import Limits, Reading, Sign, remembering, whole_run

if TYPE_CHECKING:
    from gradwatch.observations import Observation, Rows

WINDOW = 200
MIN_LAYERS = 4
# Float32 norms of what was clipped exactly at the limit read a little above or below it.
CLIPPED = 1.0 - 1e-6
# A limit that is exceeded at one step in ten cuts off what is unusual.
USUAL_PERCENTILE = 90.0


class Norms(NamedTuple):
    """Total norms before clipping and coefficients of the last steps of which both are known, oldest first."""

    norm: np.ndarray = np.zeros(0)
    coefficient: np.ndarray = np.zeros(0)

    @property
    def full(self) -> bool:
        """Whether there are enough steps to judge by."""
        return self.norm.size >= WINDOW

    @property
    def share(self) -> float:
        """The share of the steps that were clipped."""
        return float(np.mean(self.coefficient < CLIPPED))


def _remember(state: Norms, rows: Rows) -> Norms:
    norm, coefficient = _known(rows)
    return Norms(
        np.concatenate((state.norm, norm))[-WINDOW:], np.concatenate((state.coefficient, coefficient))[-WINDOW:]
    )


def _known(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return norms and coefficients of the steps of which both are known."""
    known = np.isfinite(rows.grad_norm) & np.isfinite(rows.coefficient)
    return rows.grad_norm[known], rows.coefficient[known]


def limit_in_force(seen: Observation, norms: Norms) -> float:
    """Return the limit: the one that is set, or else what clipped norms were brought to; NaN where nothing clips."""
    if seen.setting.max_norm is not None:
        return float(seen.setting.max_norm)
    clipped = norms.coefficient < CLIPPED
    return float(np.median((norms.norm * norms.coefficient)[clipped])) if clipped.any() else math.nan


def two_digits(value: float) -> float:
    """Return a number a person would set."""
    return float(f"{value:.2g}")


def _never_clips(seen: Observation, state: Norms) -> bool:
    """Whether there is no limit, and nothing was ever clipped by any other means."""
    return seen.setting.max_norm is None and not state.norm.size and not (seen.rows.coefficient < CLIPPED).any()


def _always(state: Norms, seen: Observation, limits: Limits) -> tuple[Norms, Reading | None]:
    if _never_clips(seen, state):
        return state, None
    norms = _remember(state, seen.rows)
    limit = limit_in_force(seen, norms)
    if not norms.full or not limit > 0 or not _known(seen.rows)[0].size:
        return norms, None
    share = norms.share

    def explain() -> Sign:
        median = float(np.median(norms.norm))
        evidence = {
            "share": share,
            "limit": limit,
            "median": median,
            "percentile": 100.0 * float(np.mean(norms.norm <= limit)),
            "coefficient": float(np.median(norms.coefficient)),
            "suggested": two_digits(float(np.percentile(norms.norm, USUAL_PERCENTILE))),
        }
        return Sign(evidence, severity="warning" if median >= limits["far"] * limit else None)

    return norms, whole_run(share / limits["share"], explain)


class Unclipped(NamedTuple):
    """Steps in a row that were far below the limit, and the largest norm among them."""

    steps: int = 0
    largest: float = 0.0


def _never(state: Unclipped, seen: Observation, limits: Limits) -> tuple[Unclipped, Reading | None]:
    limit = seen.setting.max_norm
    if limit is None:
        return state, None
    norm, coefficient = _known(seen.rows)
    if not norm.size:
        return state, None
    near = np.flatnonzero((coefficient < CLIPPED) | (norm >= limits["below"] * limit))
    if near.size:
        state, norm = Unclipped(), norm[near[-1] + 1 :]
    after = Unclipped(state.steps + norm.size, float(np.max(norm, initial=state.largest)))

    def explain() -> Sign:
        return Sign({"unclipped": after.steps, "largest": after.largest, "limit": float(limit)})

    # No stronger than 1: that it goes on is no news.
    return after, whole_run(min(after.steps / limits["unclipped"], 1.0), explain)


def _one_layer(state: Norms, seen: Observation, limits: Limits) -> tuple[Norms, Reading | None]:
    if len(seen.layers.names) < MIN_LAYERS or _never_clips(seen, state):
        return state, None
    norms, layers = _remember(state, seen.rows), seen.layers
    of_layer = np.where(np.isfinite(layers.grad_norm), layers.grad_norm, 0.0)
    total = math.hypot(*of_layer.tolist())
    if not norms.norm.size or not total > 0 or np.count_nonzero(of_layer) < MIN_LAYERS:
        return norms, None
    clipped, top = norms.share, int(np.argmax(of_layer))
    part = float(of_layer[top]) / total
    strength = np.where(np.isfinite(layers.grad_norm), 0.0, np.nan)
    strength[top] = min(part / limits["part"], clipped / limits["share"])

    def explain(_: int) -> Sign:
        return Sign({"part": part, "share": clipped, "coefficient": float(np.median(norms.coefficient))})

    return norms, Reading(strength, layers.names, explain)


DETECTORS = (
    remembering(rules.ALWAYS, Norms, _always),
    remembering(rules.NEVER, Unclipped, _never),
    remembering(rules.ONE_LAYER, Norms, _one_layer),
)
