"""Losses that spike, diverge, stall, are negative or constant, or rise in validation alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gradwatch.detectors.catalogue import loss as rules
from gradwatch.detectors.detector import Limits, Reading, Sign, detector, remembering, whole_run
from gradwatch.detectors.statistics import Recent, finite_median, known, noise_of, remember, spread
from gradwatch.observations import Observation, Validation

# Losses that tell the present level, those that tell how far one may be above it, and how few tell nothing yet.
RECENT, USUAL, FEW = 64, 256, 50
# Losses whose median is the level of the run.
LEVEL = 20
# A spread of exactly 0 would make a spike of the last bit.
SMALLEST_SPREAD = 1e-3
# Stands for a limit that would be 0.
SMALLEST = 1e-30
# Below zero by rounding.
ROUNDING = -1e-6
WARNS_ABOVE_START = 2.0
# Records whose noise is remembered.
NOISES = 4
COMES_DOWN = 0.05
FIFTH = 0.2


class Usual(NamedTuple):
    """The last losses, by how much each exceeded the median of those before it, and the first ones.

    What would have been a spike is kept cut off, so that spikes do not blind the rule and a new level is learned.
    """

    recent: Recent = ()
    excess: Recent = ()
    first: Recent = ()


def _spike(state: Usual, seen: Observation, limits: Limits) -> tuple[Usual, Reading | None]:
    losses = known(seen.rows.loss)
    if not losses.size:
        return state, None
    first = (*state.first, *losses.tolist())[:LEVEL]
    if len(state.recent) < FEW:
        recent = (*state.recent, *losses.tolist())[-RECENT:]
        excess = (*state.excess, *(losses - finite_median(recent)).tolist())[-USUAL:]
        return Usual(recent, excess, first), whole_run(0.0, lambda: Sign({}))
    median = finite_median(state.recent)
    deviation = max(spread(state.excess), SMALLEST_SPREAD * abs(median), SMALLEST)
    largest = max(state.excess)
    record = max(largest, deviation)
    limit = max(limits["deviations"] * deviation, (limits["factor"] - 1) * abs(median), limits["record"] * record)
    excess_now = losses - median
    kept = np.minimum(excess_now, limit)

    def explain() -> Sign:
        row = int(np.nanargmax(seen.rows.loss))
        batch, loss = seen.rows.batch_idx[row], float(seen.rows.loss[row])
        evidence = {
            "step": int(seen.rows.step[row]),
            "epoch": int(seen.rows.epoch[row]),
            "batch_idx": None if math.isnan(batch) else int(batch),
            "loss": loss,
            "median": median,
            "deviations": (loss - median) / deviation,
        }
        # Of few samples a batch, even an untrained model has losses far above its median.
        above_start = loss > WARNS_ABOVE_START * max(map(abs, first))
        return Sign(evidence, severity="warning" if above_start else "info")

    after = Usual((*state.recent, *(kept + median).tolist())[-RECENT:], (*state.excess, *kept.tolist())[-USUAL:], first)
    return after, whole_run(float(excess_now.max()) / limit, explain)


class Course(NamedTuple):
    """The first and the last losses, the best level so far and its step, and the noise at the last records.

    A loss that runs away has noise that runs away with it, so what counts is the noise of some records ago.
    """

    first: Recent = ()
    last: Recent = ()
    best: float = math.inf
    best_step: int = 0
    noises: Recent = ()


def _followed(state: Course, seen: Observation, improvement: float) -> tuple[Course, float]:
    """Return the course with the losses of an observation, and the level now; NaN while there is none."""
    losses = known(seen.rows.loss).tolist()
    last = (*state.last, *losses)[-max(LEVEL, len(losses)) :]
    state = state._replace(first=(*state.first, *losses)[:LEVEL], last=last)
    if len(last) < LEVEL or not losses:
        return state, math.nan
    state = state._replace(noises=remember(state.noises, noise_of(last), NOISES))
    now = finite_median(last)
    if now < state.best - improvement * abs(state.best) or math.isinf(state.best):
        state = state._replace(best=now, best_step=seen.step)
    return state, now


def _divergence(state: Course, seen: Observation, limits: Limits) -> tuple[Course, Reading | None]:
    state, now = _followed(state, seen, improvement=0.0)
    if seen.setting.optimizers > 1 or math.isnan(now):
        return state, None
    start = finite_median(state.first)
    noise = limits["deviations"] * max(noise_of(state.first), state.noises[0])
    gained, floor = start - state.best, SMALLEST_SPREAD * abs(start)
    if start < 0 and now < limits["rise"] * abs(start):
        return state, whole_run(0.0, lambda: Sign({}))  # a surrogate, as that of a policy gradient, may end near 0
    rise = (now - start) / max(limits["rise"] * abs(start), noise, floor, SMALLEST)
    lost = (now - state.best) / gained if gained > max(FIFTH * abs(start), noise, floor) else 0.0
    return state, whole_run(max(rise, lost), lambda: Sign({"loss": now, "start": state.first[0], "best": state.best}))


def _plateau(state: Course, seen: Observation, limits: Limits) -> tuple[Course, Reading | None]:
    state, now = _followed(state, seen, improvement=limits["improvement"])
    if seen.setting.optimizers > 1 or math.isnan(now) or state.best == 0.0:
        return state, None
    stalled = seen.step - state.best_step
    return state, whole_run(stalled / limits["patience"], lambda: Sign({"best": state.best, "stalled": stalled}))


def _negative(seen: Observation, _limits: Limits) -> Reading | None:
    losses = known(seen.rows.loss)
    if seen.loss.function is None or not losses.size:
        return None

    def explain() -> Sign:
        row = int(np.nanargmin(seen.rows.loss))
        return Sign({"loss": float(losses.min()), "step": int(seen.rows.step[row]), "function": seen.loss.function})

    return whole_run(float(losses.min() < ROUNDING), explain)


class Same(NamedTuple):
    """The last loss, how many in a row were equal to it, the first loss of the run, and the smallest."""

    value: float = math.nan
    times: int = 0
    first: float = math.nan
    least: float = math.inf


def _constant(state: Same, seen: Observation, limits: Limits) -> tuple[Same, Reading | None]:
    losses = known(seen.rows.loss)
    if not losses.size:
        return state, None
    first = float(losses[0]) if math.isnan(state.first) else state.first
    value, different = float(losses[-1]), np.flatnonzero(losses != losses[-1])
    count = losses.size - 1 - int(different[-1]) if different.size else losses.size
    if not different.size and value == state.value:
        count += state.times

    least = min(state.least, float(losses.min()))

    def explain() -> Sign:
        # At its best level, to which it has come down: a run that has converged on one batch.
        came_down = value - least <= SMALLEST_SPREAD * abs(least) and first - value > COMES_DOWN * abs(first)
        return Sign({"loss": value, "count": count}, severity="info" if came_down else None)

    return Same(value, count, first, least), whole_run(count / limits["count"], explain)


class Best(NamedTuple):
    """The best value of a validation loss, the step of it, and the training loss then."""

    name: str
    value: float
    step: int
    train: float


class Validated(NamedTuple):
    """The best of each validation loss, as a plain tuple of ``Best``, and the last training loss."""

    best: tuple[tuple[str, float, int, float], ...] = ()
    train: float = math.nan


def _validation(state: Validated, seen: Observation | Validation, limits: Limits) -> tuple[Validated, Reading | None]:
    if isinstance(seen, Observation):
        now = finite_median(seen.rows.loss)
        return (state if math.isnan(now) else state._replace(train=now)), None
    best = {entry[0]: Best(*entry) for entry in state.best}
    strongest, worst = 0.0, ""
    unknown = math.isnan(state.train) or not all(map(math.isfinite, seen.losses.values()))
    for name, value in seen.losses.items():
        if not math.isfinite(value) or math.isnan(state.train):
            continue
        if name not in best or value < best[name].value:
            best[name] = Best(name, value, seen.step, state.train)
        rise = (value - best[name].value) / max(limits["rise"] * abs(best[name].value), SMALLEST)
        strength = rise if state.train <= best[name].train else 0.0
        if strength > strongest:
            strongest, worst = strength, name

    def explain() -> Sign:
        then = best[worst]
        losses = {"loss": seen.losses[worst], "best": then.value, "train_then": then.train, "train_now": state.train}
        return Sign({"name": worst, "best_step": then.step, **losses})

    plain = tuple((entry.name, entry.value, entry.step, entry.train) for entry in best.values())
    return state._replace(best=plain), whole_run(math.nan if unknown and strongest < 1.0 else strongest, explain)


DETECTORS = (
    remembering(rules.SPIKE, Usual, _spike),
    remembering(rules.DIVERGENCE, Course, _divergence),
    remembering(rules.PLATEAU, Course, _plateau),
    detector(rules.NEGATIVE, _negative),
    remembering(rules.CONSTANT, Same, _constant),
    remembering(rules.VALIDATION, Validated, _validation, reads=(Observation, Validation)),
)
