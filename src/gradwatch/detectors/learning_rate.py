"""What the schedule does: jumps, restarts, zeros, and a start at full rate that costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.detectors.catalogue import learning_rate as rules
from gradwatch.detectors.detector import Limits, Reading, Sign, remembering, whole_run
from gradwatch.detectors.rates import is_constant
from gradwatch.detectors.statistics import spread

if TYPE_CHECKING:
    from gradwatch.observations import Observation, Rows

# Schedules come back to a level nearly: the first steps that were seen need not be the highest.
SAME = 1.05
# Losses are smoothed by medians over so many steps; so many steps are looked at for a missing warm-up.
SMOOTH, EARLY = 5, 200
NOISE = 4.0


class Rates(NamedTuple):
    """The last rate of each parameter group and the largest so far, shape [groups]; the epoch of the last rate.

    ``before``, ``after`` and ``since`` are the rates around a jump that still holds, and its step; NaN while none does.
    """

    last: np.ndarray = np.zeros(0)
    highest: np.ndarray = np.zeros(0)
    epoch: float = math.nan
    before: float = math.nan
    after: float = math.nan
    since: float = math.nan


class Changes(NamedTuple):
    """Of each row with known rates: the rates, those of the step before, the largest before, [rows, groups]; step.

    ``first_epoch_ends`` tells the rows that begin the second epoch of the run, bool, shape [rows].
    """

    now: np.ndarray
    before: np.ndarray
    highest: np.ndarray
    step: np.ndarray
    first_epoch_ends: np.ndarray


def _rests(state: Rates, rows: Rows) -> bool:
    return state.last.shape == rows.lr.shape[1:] and is_constant(rows, state.last)


def _changes(state: Rates, rows: Rows) -> tuple[Rates, Changes]:
    """Return the state after the rows, and what changed from one to the next; groups that are new begin anew."""
    known = np.isfinite(rows.lr).all(axis=1)
    now, step, epoch = rows.lr[known], rows.step[known], rows.epoch[known]
    if not now.size:
        return state, Changes(now, now, now, step, np.zeros(len(now), dtype=bool))
    fits = state.last.shape == now.shape[1:]
    last, highest = (state.last, state.highest) if fits else (now[0], now[0])
    before = np.vstack((last, now[:-1]))
    past = np.maximum(np.maximum.accumulate(before, axis=0), highest)
    epochs_before = np.concatenate(([state.epoch if math.isfinite(state.epoch) else epoch[0]], epoch[:-1]))
    after = state._replace(last=now[-1].copy(), highest=np.maximum(past[-1], now[-1]), epoch=float(epoch[-1]))
    return after, Changes(now, before, past, step, (epochs_before == 0) & (epoch > 0))


def _factors(changes: Changes) -> np.ndarray:
    """Return by how much each rate has grown from one step to the next, 0 where it was 0; shape [rows, groups]."""
    grown: np.ndarray = np.divide(changes.now, changes.before, out=np.zeros_like(changes.now), where=changes.before > 0)
    return grown


def _jump(state: Rates, seen: Observation, limits: Limits) -> tuple[Rates, Reading | None]:
    if math.isnan(state.before) and _rests(state, seen.rows):
        return state._replace(epoch=float(seen.rows.epoch[-1])), whole_run(0.0, lambda: Sign({}))
    after, changes = _changes(state, seen.rows)
    if not changes.now.size:
        return state, None
    if math.isnan(state.before) and not (changes.now > changes.before).any():
        return after, whole_run(0.0, lambda: Sign({}))
    factors = _factors(changes)
    factors[changes.step <= limits["start"]] = 0.0
    # A warm-up by epochs jumps when the first one ends, and never again.
    factors[changes.first_epoch_ends & (factors < limits["factor"] ** 2).all(axis=1)] = 0.0
    new = (factors >= limits["factor"]) & (changes.now > SAME * changes.highest)
    if new.any() and not math.isfinite(state.before):
        row, group = np.argwhere(new)[0].tolist()
        around = float(changes.before[row, group]), float(changes.now[row, group])
        after = after._replace(before=around[0], after=around[1], since=float(changes.step[row]))
    if not math.isfinite(after.before):
        return after, whole_run(0.0, lambda: Sign({}))
    before, now, since = after.before, after.after, after.since

    def explain() -> Sign:
        return Sign({"before": before, "now": now, "factor": now / before, "jump_step": int(since)})

    # No stronger than 1: that the rate goes on rising is no news.
    strength = min(float(changes.now[-1].max()) / (limits["factor"] * before), 1.0)
    if strength < limits["release"]:
        after = after._replace(before=math.nan, after=math.nan, since=math.nan)
    return after, whole_run(strength, explain)


def _restart(state: Rates, seen: Observation, limits: Limits) -> tuple[Rates, Reading | None]:
    if _rests(state, seen.rows):
        return state._replace(epoch=float(seen.rows.epoch[-1])), whole_run(0.0, lambda: Sign({}))
    after, changes = _changes(state, seen.rows)
    if not changes.now.size:
        return state, None
    if not (changes.now > changes.before).any():
        return after, whole_run(0.0, lambda: Sign({}))
    from_zero = (changes.before == 0) & (changes.now > 0) & (changes.highest > 0)
    factors = np.where(from_zero, limits["factor"], _factors(changes))
    factors[changes.now > SAME * changes.highest] = 0.0
    row, group = np.unravel_index(np.argmax(factors), factors.shape)

    def explain() -> Sign:
        before, now = float(changes.before[row, group]), float(changes.now[row, group])
        return Sign({"before": before, "now": now, "restart_step": int(changes.step[row])})

    return after, whole_run(float(factors[row, group]) / limits["factor"], explain)


class Zeros(NamedTuple):
    """Steps in a row at which all rates were zero, or next to it beside the largest so far."""

    steps: int = 0
    largest: float = 0.0


def _zero(state: Zeros, seen: Observation, limits: Limits) -> tuple[Zeros, Reading | None]:
    rates = seen.rows.lr
    if rates.size and rates.min() > limits["share"] * max(state.largest, rates.max()):
        return Zeros(0, max(state.largest, float(rates.max()))), whole_run(0.0, lambda: Sign({}))  # nearly always
    known = rates[np.isfinite(rates).all(axis=1)]
    if not known.size:
        return state, None
    largest = max(state.largest, float(known.max(initial=0.0)))
    moving = np.flatnonzero((known > limits["share"] * largest).any(axis=1))
    steps = len(known) - 1 - int(moving[-1]) if moving.size else state.steps + len(known)
    # No stronger than 1: that it goes on is no news.
    return Zeros(steps, largest), whole_run(min(steps / limits["zeros"], 1.0), lambda: Sign({"zeros": steps}))


class Start(NamedTuple):
    """Losses of the first steps and where they were, the first rate and the largest; ``whole``: from step 1 on."""

    loss: np.ndarray = np.zeros(0)
    step: np.ndarray = np.zeros(0)
    first: np.ndarray = np.zeros(0)
    highest: float = math.nan
    whole: bool = True


def _warmup(state: Start, seen: Observation, limits: Limits) -> tuple[Start, Reading | None]:
    if seen.setting.optimizers > 1 or not state.whole:
        return state, None
    if not np.isfinite(seen.rows.loss).any():
        return state, None
    if state.step.size and state.step[-1] >= EARLY:
        return state, whole_run(0.0, lambda: Sign({}))
    rows, rates = seen.rows, seen.rows.lr[np.isfinite(seen.rows.lr).all(axis=1)]
    if not state.step.size and rows.step.size and rows.step[0] > SMOOTH:
        return state._replace(whole=False), None
    known = np.isfinite(rows.loss) & (rows.step <= EARLY)
    highest = float(np.max(rates, initial=-math.inf if math.isnan(state.highest) else state.highest))
    after = Start(
        loss=np.concatenate((state.loss, rows.loss[known])),
        step=np.concatenate((state.step, rows.step[known])),
        first=state.first if state.first.size else rates[:1].max(axis=1, initial=-math.inf),
        highest=highest if math.isfinite(highest) else math.nan,
    )
    if not (after.first.size and after.first[0] * SAME >= after.highest > 0):
        return after, whole_run(0.0, lambda: Sign({}))
    return after, _risen(after, limits)


def _risen(state: Start, limits: Limits) -> Reading | None:
    """Return how far the loss rose before it came down again, both beyond noise."""
    if state.loss.size < 3 * SMOOTH:
        return None
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(state.loss, SMOOTH), axis=1)
    # Before its first step the model is untrained, and a hump may come at once.
    start, top = min(float(smooth[0]), float(state.loss[0])), int(np.argmax(smooth))
    peak, low = float(smooth[top]), float(smooth[top:].min())
    noise = spread(np.diff(state.loss)) / math.sqrt(2.0)
    came_down = low <= start + 0.1 * (peak - start)
    if not (start > 0 and came_down and peak - start >= NOISE * noise):
        return whole_run(0.0, lambda: Sign({}))
    evidence = {"start": start, "peak": peak, "peak_step": int(state.step[top + SMOOTH // 2]), "rise": peak / start}
    return whole_run(peak / (limits["rise"] * start), lambda: Sign(evidence))


DETECTORS = (
    remembering(rules.JUMP, Rates, _jump),
    remembering(rules.RESTART, Rates, _restart),
    remembering(rules.ZERO, Zeros, _zero),
    remembering(rules.WARMUP, Start, _warmup),
)
