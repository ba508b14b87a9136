"""How far steps move weights: too far, hardly, not at all, or by what rounding and eps leave of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.detectors.catalogue import updates as rules
from gradwatch.detectors.detector import Limits, Reading, Sign, detector, ratio, remembering
from gradwatch.detectors.rates import Schedule, at_work, followed

if TYPE_CHECKING:
    from gradwatch.observations import Layers, Observation

# Of the root mean square that usual initialisations give a square matrix, 1 / sqrt(n): torch's own is 0.58 of it.
SMALL_START = 0.3
# A gradient below this part of the largest (root mean square an element) is round-off: a bias before a normalisation.
ROUND_OFF = 1e-6
# Below this part of its own largest gradient a layer has converged.
CONVERGED = 1e-3
HISTORY = 10
# They end by themselves at the minimum, however often they are called.
CONVERGING = frozenset({"LBFGS"})


def usual_norm(elements: np.ndarray) -> np.ndarray:
    """Return a small, but usual norm of weights at the start, shape [layers]: with it begins what grows from zero."""
    norm: np.ndarray = SMALL_START * np.asarray(elements, dtype=float) ** 0.25
    return norm


def with_gradient(layers: Layers) -> np.ndarray:
    """Return which layers have a gradient that is more than round-off beside the largest, bool, shape [layers]."""
    per_element = layers.grad_norm / np.sqrt(np.maximum(layers.elements, 1))
    finite = np.isfinite(per_element)
    present: np.ndarray = finite & (per_element > ROUND_OFF * np.max(per_element, where=finite, initial=0.0))
    return present


def _large(seen: Observation, limits: Limits) -> Reading:
    layers, ratios = seen.layers, seen.layers.update_ratio
    # A layer that began at zero has moved by all that it is: what counts is how far it is to a usual weight.
    usual = np.minimum(1.0, layers.weight_norm / usual_norm(layers.elements))
    strength = ratio(ratios * usual, limits["ratio"])
    if seen.rows.skipped[-1:].any():
        strength = np.full(len(layers.names), np.nan)
    return Reading(
        strength, layers.names, lambda i: Sign({"ratio": float(ratios[i]), "norm": float(layers.weight_norm[i])})
    )


def _nothing(_: int) -> Sign:
    """Return what is to be said where nothing shows."""
    return Sign({})


class Least(NamedTuple):
    """The largest update ratio of each layer so far, and the schedule."""

    largest: np.ndarray = np.zeros(0)
    schedule: Schedule = Schedule()


def _small(state: Least, seen: Observation, limits: Limits) -> tuple[Least, Reading]:
    layers, ratios = seen.layers, seen.layers.update_ratio
    schedule = followed(state.schedule, seen.rows)
    largest = np.fmax(state.largest, ratios) if state.largest.size else ratios
    if (ratios > 0).all() and (largest > limits["ratio"]).all():  # nearly always: each has moved as far as it should
        return Least(largest, schedule), Reading(limits["ratio"] / largest, layers.names, _nothing)
    with np.errstate(divide="ignore"):
        strength = limits["ratio"] / largest
    # What is exactly 0 is for frozen-weights to tell. What has moved once is told apart from the rest by its past.
    known = np.isfinite(ratios) & (largest > 0) & with_gradient(layers)
    if not at_work(seen, schedule):
        known &= strength < 1.0

    def explain(i: int) -> Sign:
        return Sign({"ratio": float(largest[i]), "grad_norm": float(layers.grad_norm[i]), "lr": _rate(seen)})

    return Least(largest, schedule), Reading(np.where(known, strength, np.nan), layers.names, explain)


def _lost(state: Schedule, seen: Observation, limits: Limits) -> tuple[Schedule, Reading | None]:
    layers = seen.layers
    if np.isnan(layers.unchanged).all():
        return state, None  # weights of 32 bits and more
    schedule = followed(state, seen.rows)
    if not at_work(seen, schedule):
        return schedule, None
    strength = ratio(layers.unchanged, limits["share"])

    def explain(i: int) -> Sign:
        return Sign({"share": float(layers.unchanged[i]), "ratio": float(layers.update_ratio[i]), "lr": _rate(seen)})

    return schedule, Reading(strength, layers.names, explain)


class Fewest(NamedTuple):
    """The smallest share of second moments below eps in each layer so far."""

    share: np.ndarray = np.zeros(0)


def _epsilon(state: Fewest, seen: Observation, limits: Limits) -> tuple[Fewest, Reading | None]:
    layers, shares = seen.layers, seen.layers.below_epsilon
    if np.isnan(shares).all():
        return state, None  # not Adam, or past the first records
    fewest = np.fmin(state.share, shares) if state.share.size else shares
    judged = np.isfinite(shares) & layers.is_weight & (with_gradient(layers) | (fewest < limits["share"]))
    strength = np.where(judged, ratio(fewest, limits["share"]), np.nan)

    def explain(i: int) -> Sign:
        rms = float(layers.grad_norm[i] / math.sqrt(max(layers.elements[i], 1)))
        return Sign({"share": float(shares[i]), "rms": rms})

    return Fewest(fewest), Reading(strength, layers.names, explain)


class Growth(NamedTuple):
    """The first weight norm of each layer, and the last ones it had, oldest first, shape [records, layers]."""

    start: np.ndarray = np.zeros(0)
    recent: np.ndarray = np.zeros(0)


def _growth(state: Growth, seen: Observation, limits: Limits) -> tuple[Growth, Reading]:
    layers, now = seen.layers, seen.layers.weight_norm
    start = np.where(np.isnan(state.start), now, state.start) if state.start.size else now
    before = state.recent if state.recent.size else np.full((HISTORY, len(now)), np.nan)
    base = np.maximum(start, usual_norm(layers.elements))
    with np.errstate(invalid="ignore", divide="ignore"):
        doubled = now / np.fmin.reduce(np.vstack((before, start)) if np.isnan(before).any() else before)
        strength = np.minimum(now / (limits["factor"] * base), doubled / limits["recent"])
    recent = np.where(np.isnan(now), before, np.vstack((before[1:], now)))

    def explain(i: int) -> Sign:
        factor = float(now[i] / start[i]) if start[i] > 0 else math.inf
        return Sign({"norm": float(now[i]), "start": float(start[i]), "factor": factor})

    return Growth(start, recent), Reading(strength, layers.names, explain)


class Still(NamedTuple):
    """Of each layer the weight norm at the record before, and the largest gradient norm so far; the schedule."""

    norm: np.ndarray = np.zeros(0)
    gradient: np.ndarray = np.zeros(0)
    schedule: Schedule = Schedule()


def _frozen(state: Still, seen: Observation, _limits: Limits) -> tuple[Still, Reading]:
    layers, schedule = seen.layers, followed(state.schedule, seen.rows)
    norm, gradient = layers.weight_norm, layers.grad_norm
    before = state.norm if state.norm.size else norm
    largest = np.fmax(state.gradient, gradient) if state.gradient.size else gradient
    if (layers.update_ratio > 0).all() and not seen.orphans:  # nearly always
        moved = np.zeros(len(layers.names))
        return Still(np.where(np.isnan(norm), before, norm), largest, schedule), Reading(moved, layers.names, _nothing)
    still = (layers.update_ratio == 0) & ((norm == before) | np.isnan(before))
    known = np.isfinite(layers.update_ratio) & np.isfinite(norm)
    # A step may have moved nothing because there was nothing to move by; one that did move is known in any case.
    rounded = np.isfinite(layers.unchanged) & ~layers.is_weight  # lost-update speaks of it
    moving = with_gradient(layers) & (gradient > CONVERGED * largest) & ~rounded & at_work(seen, schedule)
    strength = np.where(known & (moving | ~still), still * 1.0, np.nan)
    if seen.rows.skipped[-1:].any() or seen.setting.optimizer in CONVERGING:
        strength = np.full(len(layers.names), np.nan)

    def explain(i: int) -> Sign:
        if i >= len(layers.names):
            return Sign({}, message=rules.FROZEN_ORPHAN.format(layer=names[i]), advice=rules.ORPHAN_ADVICE)
        evidence = {"grad_norm": float(gradient[i]), "norm": float(norm[i]), "lr": float(layers.lr[i])}
        return Sign(evidence, severity="info" if layers.lr[i] == 0 else None)

    names = (*layers.names, *seen.orphans)
    strength = np.concatenate((strength, np.ones(len(seen.orphans))))
    return Still(np.where(np.isnan(norm), before, norm), largest, schedule), Reading(strength, names, explain)


def _rate(seen: Observation) -> float:
    rates = seen.rows.lr[-1:]
    return float(rates.max()) if rates.size else math.nan


DETECTORS = (
    detector(rules.LARGE, _large),
    remembering(rules.SMALL, Least, _small, by_layer=("largest",)),
    remembering(rules.LOST, Schedule, _lost),
    remembering(rules.EPSILON, Fewest, _epsilon, by_layer=("share",)),
    remembering(rules.GROWTH, Growth, _growth, by_layer=("start", "recent")),
    remembering(rules.FROZEN, Still, _frozen, by_layer=("norm", "gradient")),
)
