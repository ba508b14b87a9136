"""Losses that spike, diverge, stall, are negative or constant, or rise in validation alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gradwatch.detectors.catalogue import loss as rules
from gradwatch.detectors.detector import Limits, Reading, Sign, detector, remembering, whole_run
from gradwatch.detectors.statistics import finite_median, known, noise_of, spread
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
# Records whose losses are remembered, for their noise.
NOISES = 4
COMES_DOWN = 0.05
FIFTH = 0.2
# A loss without a floor diverges if it rises by so many times all that it had gained.
RUNS_AWAY = 10.0


class Usual(NamedTuple):
    """The last losses, by how much each exceeded the median of those before it, and the first ones.

    What would have been a spike is kept cut off, so that spikes do not blind the rule and a new level is learned.
    """

    recent: np.ndarray = np.zeros(0)
    excess: np.ndarray = np.zeros(0)
    first: np.ndarray = np.zeros(0)


def _spike(state: Usual, seen: Observation, limits: Limits) -> tuple[Usual, Reading | None]:
    losses = known(seen.rows.loss)
    if not losses.size:
        return state, None
    first = state.first if state.first.size >= LEVEL else np.concatenate((state.first, losses))[:LEVEL]
    if state.recent.size < FEW:
        recent = np.concatenate((state.recent, losses))[-RECENT:]
        excess = np.concatenate((state.excess, losses - finite_median(recent)))[-USUAL:]
        return Usual(recent, excess, first), whole_run(0.0, lambda: Sign({}))
    median = finite_median(state.recent)
    deviation = max(spread(state.excess), SMALLEST_SPREAD * abs(median), SMALLEST)
    record = max(float(state.excess.max()), deviation)
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
        above_start = loss > WARNS_ABOVE_START * float(np.abs(first).max())
        return Sign(evidence, severity="warning" if above_start else "info")

    recent = np.concatenate((state.recent, kept + median))[-RECENT:]
    after = Usual(recent, np.concatenate((state.excess, kept))[-USUAL:], first)
    return after, whole_run(float(excess_now.max()) / limit, explain)


class Course(NamedTuple):
    """The first and the last losses, the best level so far and its step."""

    first: np.ndarray = np.zeros(0)
    last: np.ndarray = np.zeros(0)
    best: float = math.inf
    best_step: int = 0


def _followed(state: Course, seen: Observation, improvement: float) -> tuple[Course, float]:
    """Return the course with the losses of an observation, and the level now; NaN while there is none."""
    losses = known(seen.rows.loss)
    first = state.first if state.first.size >= LEVEL else np.concatenate((state.first, losses))[:LEVEL]
    last = np.concatenate((state.last, losses))[-max(LEVEL, losses.size) :]
    if last.size < LEVEL or not losses.size:
        return Course(first, last, state.best, state.best_step), math.nan
    now = finite_median(last)
    if now < state.best - improvement * abs(state.best) or math.isinf(state.best):
        return Course(first, last, now, seen.step), now
    return Course(first, last, state.best, state.best_step), now


class Diverging(NamedTuple):
    """The course of a loss, and what was last at each of the last records, oldest first, shape [records, losses].

    A loss that runs away has noise that runs away with it, so what counts is the noise of some records ago.
    """

    course: Course = Course()
    windows: tuple[np.ndarray, ...] = ()


def _divergence(before: Diverging, seen: Observation, limits: Limits) -> tuple[Diverging, Reading | None]:
    state, now = _followed(before.course, seen, improvement=0.0)
    if math.isnan(now):
        return before._replace(course=state), None
    after = Diverging(state, (*before.windows, state.last)[-NOISES:])
    if seen.setting.optimizers > 1:
        return after, None
    start = finite_median(state.first)
    gained, floor = start - state.best, SMALLEST_SPREAD * abs(start)
    if now <= start and now - state.best < limits["release"] * gained:
        return after, whole_run(0.0, lambda: Sign({}))  # nearly always: below the start, most of the gain is kept
    noise = limits["deviations"] * max(noise_of(state.first), noise_of(after.windows[0]))
    if start < 0 and now < limits["rise"] * abs(start):
        return after, whole_run(0.0, lambda: Sign({}))  # a surrogate, as that of a policy gradient, may end near 0
    rise = (now - start) / max(limits["rise"] * abs(start), noise, floor, SMALLEST)
    lost = (now - state.best) / gained if gained > max(FIFTH * abs(start), noise, floor) else 0.0

    def explain() -> Sign:
        # Below zero there is no floor: such a loss may weigh advantages or samples of its own and need not fall.
        signed = state.best < 0 and now - start < RUNS_AWAY * max(abs(start), gained)
        return Sign({"loss": now, "start": start, "best": state.best}, severity="info" if signed else None)

    return after, whole_run(max(rise, lost), explain)


def _plateau(state: Course, seen: Observation, limits: Limits) -> tuple[Course, Reading | None]:
    state, now = _followed(state, seen, improvement=limits["improvement"])
    if seen.setting.optimizers > 1 or math.isnan(now) or state.best == 0.0:
        return state, None
    stalled = seen.step - state.best_step
    return state, whole_run(stalled / limits["patience"], lambda: Sign({"best": state.best, "stalled": stalled}))


def _negative(seen: Observation, _limits: Limits) -> Reading | None:
    if seen.loss.function is None:
        return None
    losses = known(seen.rows.loss)
    if not losses.size:
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
    value, count = float(losses[-1]), _equal_at_end(losses)
    if count == losses.size and value == state.value:
        count += state.times
    least = min(state.least, float(losses.min()))

    def explain() -> Sign:
        # At its best level, to which it has come down: a run that has converged on one batch.
        came_down = value - least <= SMALLEST_SPREAD * abs(least) and first - value > COMES_DOWN * abs(first)
        return Sign({"loss": value, "count": count}, severity="info" if came_down else None)

    return Same(value, count, first, least), whole_run(count / limits["count"], explain)


def _equal_at_end(losses: np.ndarray) -> int:
    """Return how many losses in a row, the last one among them, are equal to it."""
    if losses.size > 1 and losses[-1] != losses[-2]:
        return 1  # nearly always
    different = np.flatnonzero(losses != losses[-1])
    return losses.size - 1 - int(different[-1]) if different.size else losses.size


class Best(NamedTuple):
    """The best value of a validation loss, the step of it, and the training loss then."""

    name: str
    value: float
    step: int
    train: float


class Validated(NamedTuple):
    """The best of each validation loss, as a plain tuple of ``Best``, and the last training losses."""

    best: tuple[tuple[str, float, int, float], ...] = ()
    training: np.ndarray = np.zeros(0)


def _validation(state: Validated, seen: Observation | Validation, limits: Limits) -> tuple[Validated, Reading | None]:
    if isinstance(seen, Observation):
        losses = known(seen.rows.loss)
        return (Validated(state.best, losses) if losses.size else state), None
    train = finite_median(state.training)
    best = {entry[0]: Best(*entry) for entry in state.best}
    strongest, worst = 0.0, ""
    unknown = math.isnan(train) or not all(map(math.isfinite, seen.losses.values()))
    for name, value in seen.losses.items():
        if not math.isfinite(value) or math.isnan(train):
            continue
        if name not in best or value < best[name].value:
            best[name] = Best(name, value, seen.step, train)
        rise = (value - best[name].value) / max(limits["rise"] * abs(best[name].value), SMALLEST)
        strength = rise if train <= best[name].train else 0.0
        if strength > strongest:
            strongest, worst = strength, name

    def explain() -> Sign:
        then = best[worst]
        losses = {"loss": seen.losses[worst], "best": then.value, "train_then": then.train, "train_now": train}
        return Sign({"name": worst, "best_step": then.step, **losses})

    plain = tuple((entry.name, entry.value, entry.step, entry.train) for entry in best.values())
    return state._replace(best=plain), whole_run(math.nan if unknown and strongest < 1.0 else strongest, explain)


DETECTORS = (
    remembering(rules.SPIKE, Usual, _spike),
    remembering(rules.DIVERGENCE, Diverging, _divergence),
    remembering(rules.PLATEAU, Course, _plateau),
    detector(rules.NEGATIVE, _negative),
    remembering(rules.CONSTANT, Same, _constant),
    remembering(rules.VALIDATION, Validated, _validation, reads=(Observation, Validation)),
)
