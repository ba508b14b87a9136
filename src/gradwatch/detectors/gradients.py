"""Gradients that explode, vanish, are zero or missing, or sit in one layer alone."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.detectors.catalogue import gradients as rules
from gradwatch.detectors.detector import Limits, Reading, Sign, detector, remembering
from gradwatch.detectors.statistics import WINDOWS, Recent, finite_median, remember

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.observations import Layers, Observation

MIN_LAYERS = 4
# Windows that tell the level of the start, and those without which there is no usual level.
FIRST = 5
# Steps of which a rise is judged: fewer are an outlier and its neighbours.
GROWTH_ROWS, MIN_ROWS = 64, 8
FALL_BACK = 0.25
WITHOUT_LARGEST = 0.75
RUNS_AWAY = 10.0
NAMED = 5


class Level(NamedTuple):
    """Medians of the first and last windows, norms and losses of the last steps, the layers' norms at the last records.

    ``layers`` has shape [records, layers], oldest first. ``strength`` is by how much the last window was above its
    usual level, in units of the limit.
    """

    first: Recent = ()
    recent: Recent = ()
    norms: np.ndarray = np.zeros(0)
    losses: np.ndarray = np.zeros(0)
    layers: np.ndarray = np.zeros((0, 0))
    strength: float = 0.0


def _exploding(state: Level, seen: Observation, limits: Limits) -> tuple[Level, Reading | None]:
    now = finite_median(seen.rows.grad_norm)
    if math.isnan(now):
        return state, None
    norm, loss = seen.rows.grad_norm, seen.rows.loss
    complete = (norm > 0) & ~np.isnan(loss)
    by_layer = state.layers if state.layers.size else np.zeros((0, len(seen.layers.names)))
    after = Level(
        first=state.first if len(state.first) >= FIRST else remember(state.first, now, FIRST),
        recent=remember(state.recent, now),
        norms=np.concatenate((state.norms, norm[complete]))[-GROWTH_ROWS:],
        losses=np.concatenate((state.losses, loss[complete]))[-GROWTH_ROWS:],
        layers=np.concatenate((by_layer, seen.layers.grad_norm[None]))[-WINDOWS:],
    )
    level = _level(state, now, limits)
    # One window above the usual level may be an odd stretch of data; growth over many steps is its own confirmation.
    strength = max(min(level, state.strength), _growth(after, limits))

    def explain(_: int) -> Sign:
        base = finite_median(state.recent) if len(state.recent) >= FIRST else float(after.norms.min())
        evidence = {"norm": now, "usual": base, "factor": now / base if base > 0 else math.inf}
        return Sign(evidence, layer=_grown_most(seen.layers, by_layer))

    return after._replace(strength=level), Reading(strength, (None,), explain)


def _level(state: Level, now: float, limits: Limits) -> float:
    if len(state.recent) < FIRST:
        return 0.0
    usual, start = finite_median(state.recent), finite_median(state.first)
    if not (usual > 0 and start > 0):
        return 0.0
    return min(now / (limits["factor"] * usual), now / (limits["start_factor"] * start))


def _growth(state: Level, limits: Limits) -> float:
    """Return the rise up to the last step by the limit, 0 where it does not hold on or where the loss has fallen."""
    if len(state.norms) < MIN_ROWS:
        return 0.0
    if state.norms[-1] < limits["release"] * limits["rise"] * state.norms.min():
        return 0.0  # nearly always
    logs, losses = np.log(state.norms).tolist(), state.losses.tolist()
    end, needed, per_step = logs[-1], math.log(limits["rise"]), math.log(2.0) / limits["doubling"]
    best, lowest, fall, largest = 0.0, end, 0.0, 0.0
    for start in range(len(logs) - 2, -1, -1):
        value, after = logs[start], logs[start + 1]
        fall, lowest, largest = max(fall, value - lowest), min(lowest, value), max(largest, after - value)
        gain, steps = end - value, len(logs) - 1 - start
        lasts = steps >= MIN_ROWS - 1 and gain >= steps * per_step and fall <= FALL_BACK * gain
        # An outlier at the end is one large step, not many.
        lasts = lasts and gain - largest >= WITHOUT_LARGEST * needed
        if lasts and gain > best and not _learns(losses[start:]):
            best = gain
    return math.exp(best - needed)


def _learns(losses: Sequence[float]) -> bool:
    """Whether a loss falls, as it does where the norm rises from a tiny start because the network begins to learn.

    A loss that falls below zero by multiples of what it was is maximised by mistake.
    """
    first, last = losses[0], finite_median(losses[-3:])
    return last < first and abs(last) <= RUNS_AWAY * abs(first)


def _grown_most(layers: Layers, before: np.ndarray) -> str | None:
    """Return the layer whose norm has grown most beside its median at the records before, shape [records, layers]."""
    usual = np.array([finite_median(column) for column in before.T])
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = layers.grad_norm / usual if usual.size else np.zeros(0)
    finite = np.isfinite(growth)
    return layers.names[int(np.argmax(np.where(finite, growth, -1.0)))] if finite.any() else None


def _vanishing(seen: Observation, limits: Limits) -> Reading | None:
    layers = seen.layers
    if len(layers.names) < MIN_LAYERS:
        return None
    judged = np.flatnonzero(layers.is_weight & (layers.grad_norm > 0))
    if judged.size < MIN_LAYERS:
        return None
    per_element = layers.grad_norm[judged] / np.sqrt(layers.elements[judged])
    quarter = max(1, judged.size // 4)
    first, last = float(np.median(per_element[:quarter])), float(np.median(per_element[-quarter:]))
    strength = min(limits["ratio"] * last / first, limits["level"] / first)

    def explain(_: int) -> Sign:
        return Sign({"first": first, "last": last, "ratio": first / last}, layer=layers.names[int(judged[0])])

    return Reading(strength, (None,), explain)


def _dead(seen: Observation, _limits: Limits) -> Reading | None:
    layers = seen.layers
    if not (layers.grad_norm_max > 0).any():
        return None
    strength = np.where(np.isnan(layers.grad_norm), np.nan, (layers.grad_norm_max == 0) * 1.0)
    return Reading(strength, layers.names, lambda _: Sign({}))


class Never(NamedTuple):
    """The parameters that were without a gradient at every record so far; None before the first one."""

    names: tuple[str, ...] | None = None


def _unused(state: Never, seen: Observation, _limits: Limits) -> tuple[Never, Reading]:
    by_layer: dict[str, list[str]] = defaultdict(list)
    for name, layer in seen.without_gradient:
        if state.names is None or name in state.names:
            by_layer[layer].append(name)
    never = Never(tuple(name for names in by_layer.values() for name in names))
    names = seen.layers.names
    strength = np.array([1.0 if name in by_layer else 0.0 for name in names]) if by_layer else np.zeros(len(names))

    def explain(i: int) -> Sign:
        unused = by_layer[names[i]]
        return Sign({"count": len(unused), "names": ", ".join(unused[:NAMED])})

    return never, Reading(strength, names, explain)


def _outlier(seen: Observation, limits: Limits) -> Reading | None:
    layers, norms = seen.layers, seen.layers.grad_norm
    if len(layers.names) < MIN_LAYERS:
        return None
    positive = norms[norms > 0]
    if positive.size < MIN_LAYERS:
        return None
    second, largest = np.sort(positive)[-2:].tolist()
    median = float(np.median(positive))
    strength = np.where(np.isnan(norms), np.nan, 0.0)
    top = int(np.nanargmax(norms))
    strength[top] = min(largest / (limits["factor"] * median), largest / (limits["next"] * second))

    def explain(_: int) -> Sign:
        name = layers.names[int(np.flatnonzero(norms == second)[0])]
        factors = {"factor": largest / median, "next": largest / second}
        return Sign({"norm": largest, "median": median, "second": name, **factors})

    return Reading(strength, layers.names, explain)


DETECTORS = (
    remembering(rules.EXPLODING, Level, _exploding, by_layer=("layers",)),
    detector(rules.VANISHING, _vanishing),
    detector(rules.DEAD, _dead),
    remembering(rules.UNUSED, Never, _unused),
    detector(rules.OUTLIER, _outlier),
)
