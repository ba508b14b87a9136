"""Data that a network cannot do well with: its scale, its values, its targets, its batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.detectors.catalogue import data as rules
from gradwatch.detectors.detector import Limits, Reading, Sign, detector, remembering, whole_run
from gradwatch.detectors.statistics import Recent, finite_median, finite_or_nan, known, remember

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradwatch.observations import LayerInput, Observation

NAMED = 5
MIN_BATCHES = 3
# Rounding of a mean in float32.
ROUNDING = 1e-6


def _unnormalised(seen: Observation, limits: Limits) -> Reading | None:
    return _of_data(seen, lambda entry: math.hypot(entry.mean, entry.std) / limits["rms"])


class Values(NamedTuple):
    """The constants that entered layers when last seen: layer, value."""

    known: tuple[tuple[str, float], ...] = ()


def _constant(state: Values, seen: Observation, _limits: Limits) -> tuple[Values, Reading | None]:
    before = dict(state.known)

    def strength(entry: LayerInput) -> float:
        if not (math.isfinite(entry.std) and math.isfinite(entry.mean)):
            return math.nan
        if entry.std > ROUNDING * abs(entry.mean):
            return 0.0
        # A condition drawn anew for each batch is constant within it, and tells something all the same.
        value = before.setdefault(entry.layer, entry.mean)
        before[entry.layer] = entry.mean
        return float(abs(entry.mean - value) <= ROUNDING * abs(value))

    reading = _of_data(seen, strength)
    return Values(tuple(before.items())), reading


def _of_data(seen: Observation, strength: Callable[[LayerInput], float]) -> Reading | None:
    if seen.forward is None:
        return None
    own = set(seen.layers.names)
    entries = [entry for entry in seen.forward.inputs if entry.is_data and entry.layer in own]
    entries = list({entry.layer: entry for entry in reversed(entries)}.values())  # tied weights are one layer
    if not entries:
        return None
    strengths = np.array([strength(entry) for entry in entries])

    def explain(i: int) -> Sign:
        entry = entries[i]
        rms = math.hypot(entry.mean, entry.std)
        return Sign({"rms": rms, "mean": entry.mean, "std": entry.std, "largest": entry.largest})

    return Reading(finite_or_nan(strengths), [entry.layer for entry in entries], explain)


def _nonfinite(seen: Observation, _limits: Limits) -> Reading | None:
    rows, bad = seen.rows, seen.bad_batch
    if bad is None:
        return None
    survived = bool(rows.loss.size) and math.isfinite(rows.loss[-1]) and math.isfinite(rows.grad_norm[-1])

    def explain() -> Sign:
        names = ", ".join(name for name, _ in bad[:NAMED])
        return Sign({"names": names, "count": sum(count for _, count in bad)})

    return whole_run(float(bool(bad)) if survived else math.nan, explain)


def _target_domain(seen: Observation, _limits: Limits) -> Reading | None:
    facts = seen.loss
    if facts.outside is None and facts.function is None:
        return None  # nothing was seen of the loss at this step, or it is none with a domain

    def explain() -> Sign:
        return Sign({"outside": facts.outside, "low": facts.low, "high": facts.high, "function": facts.function})

    return whole_run(float(facts.outside is not None), explain)


class Sizes(NamedTuple):
    """Median batch sizes of the last windows, and how many batches they are of, at most ``MIN_BATCHES``."""

    recent: Recent = ()
    batches: int = 0


def _small_batch(state: Sizes, seen: Observation, limits: Limits) -> tuple[Sizes, Reading | None]:
    if seen.optimizer:
        return state, None  # a batch has one size, however many optimizers step on it
    sizes = known(seen.rows.batch_size)
    sizes = sizes[sizes > 0]
    if not sizes.size:
        return state, None
    recent = remember(state.recent, finite_median(sizes))
    after = Sizes(recent, min(MIN_BATCHES, state.batches + sizes.size))
    usual, smallest = finite_median(recent), float(sizes.min())
    strength = limits["share"] * usual / smallest
    if after.batches < MIN_BATCHES or strength < 1.0:
        return after, None  # told once: the last batch of every epoch is the same news

    def explain() -> Sign:
        row = int(np.nanargmin(np.where(seen.rows.batch_size > 0, seen.rows.batch_size, np.nan)))
        return Sign({"size": int(smallest), "usual": int(usual), "at_step": int(seen.rows.step[row])})

    return after, whole_run(strength, explain)


DETECTORS = (
    detector(rules.UNNORMALISED, _unnormalised, needs="forward"),
    remembering(rules.CONSTANT, Values, _constant, needs="forward"),
    detector(rules.NONFINITE, _nonfinite, needs="bad_batch"),
    detector(rules.TARGET_DOMAIN, _target_domain),
    remembering(rules.SMALL_BATCH, Sizes, _small_batch),
)
