"""Loss scales that fall or stick, steps that are skipped, and numbers near the ends of their format."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.detectors.catalogue import mixed_precision as rules
from gradwatch.detectors.detector import Limits, Reading, Sign, ratio, remembering, whole_run

if TYPE_CHECKING:
    from gradwatch.observations import ModuleOutput, Observation, Rows

# A scale that has held for so many steps has found its level; after so many it has found another one.
HELD, SETTLED = 20, 200
# The first steps of a scaler look for its level; after them so many steps tell how often it overflows.
CALIBRATION, WINDOW, FEWEST = 100, 200, 100
# Below this part of its own largest gradient a layer has converged, and may underflow.
CONVERGED = 1e-3
# Forward passes that tell a growth; below this part of the format's maximum nothing is near.
PASSES, FAR = 20, 2.0**-8
MIN_PASSES, GROWN = 4, 4.0
LARGEST_FP16 = 65504.0


class Scale(NamedTuple):
    """The loss scale, for how many steps it has been that, and the level that it held before."""

    now: float = math.nan
    steps: int = 0
    held: float = math.nan


def _scales(seen: Observation) -> tuple[list[float], list[bool]]:
    """Return scale and skipped of the rows whose scale is known; there is one scale, however many optimizers."""
    if seen.optimizer or not seen.setting.has_scaler:
        return [], []
    rows = seen.rows
    known = np.isfinite(rows.loss_scale)
    return rows.loss_scale[known].tolist(), rows.skipped[known].tolist()


def _follow(state: Scale, scale: float, times: int = 1) -> Scale:
    """Return the state after so many steps at one scale."""
    steps = state.steps + times if scale == state.now else times
    held = state.held
    if steps >= SETTLED:
        held = scale
    elif steps >= HELD:
        held = scale if math.isnan(held) else max(held, scale)
    return Scale(scale, steps, held)


def _collapse(state: Scale, seen: Observation, limits: Limits) -> tuple[Scale, Reading | None]:
    scales, _ = _scales(seen)
    if not scales:
        return state, None
    lowest, strength = scales[0], 0.0
    for scale, times in _runs(scales):
        held = state.held
        fallen = held / (limits["fall"] * scale) if held > 0 and scale > 0 else 0.0
        below = min(limits["least"] / scale, 1e30) if 0 <= scale < limits["least"] and scale else 0.0
        strength, lowest = max(strength, fallen, below), min(lowest, scale)
        state = _follow(state, scale, times)

    def explain() -> Sign:
        return Sign({"scale": state.now, "lowest": lowest, "held": None if math.isnan(state.held) else state.held})

    return state, whole_run(strength, explain)


def _runs(scales: list[float]) -> list[tuple[float, int]]:
    """Return each scale with the number of steps in a row at it: nearly always there is one."""
    return [(scale, len(list(run))) for scale, run in groupby(scales)]


class Stuck(NamedTuple):
    """The scale, overflows in a row at it, and steps in a row at 1 or below."""

    scale: float = math.nan
    overflows: int = 0
    low: int = 0


def _stuck(state: Stuck, seen: Observation, limits: Limits) -> tuple[Stuck, Reading | None]:
    scales, skipped = _scales(seen)
    if not scales:
        return state, None
    if not any(skipped) and min(scales) > limits["least"]:  # nearly always
        return Stuck(scales[-1]), whole_run(0.0, lambda: Sign({}))
    most = 0
    for scale, overflow in zip(scales, skipped, strict=True):
        overflows = (state.overflows if scale == state.scale else 0) + 1 if overflow else 0
        low = state.low + 1 if scale <= limits["least"] else 0
        state, most = Stuck(scale, overflows, low), max(most, overflows)

    def explain() -> Sign:
        evidence = {"scale": state.scale, "overflows": most, "low": state.low}
        if most >= limits["overflows"]:
            return Sign(evidence)
        return Sign(evidence, message=rules.STUCK_LOW.format(**evidence))

    return state, whole_run(max(most / limits["overflows"], min(state.low / limits["low"], 1.0)), explain)


class Skips(NamedTuple):
    """Whether the last steps under a scaler were skipped (1 or 0, oldest first), and how many steps it has seen."""

    skipped: np.ndarray = np.zeros(0)
    seen: int = 0


def _remember(state: Skips, rows: Rows) -> Skips:
    skipped = rows.skipped[np.isfinite(rows.loss_scale)].astype(float)
    settled = skipped[max(0, CALIBRATION - state.seen) :]
    return Skips(np.concatenate((state.skipped, settled))[-WINDOW:], state.seen + len(skipped))


def _skipped(state: Skips, seen: Observation, limits: Limits) -> tuple[Skips, Reading | None]:
    if not seen.setting.has_scaler:
        return state, None
    after = _remember(state, seen.rows)
    if after.skipped.size < FEWEST or after.seen == state.seen:
        return after, None
    share, count = float(after.skipped.mean()), int(after.skipped.sum())
    evidence = {"share": share, "skipped": count, "of": int(after.skipped.size)}
    return after, whole_run(share / limits["share"], lambda: Sign(evidence))


class Largest(NamedTuple):
    """The largest gradient norm of each layer so far."""

    gradient: np.ndarray = np.zeros(0)


def _underflow(state: Largest, seen: Observation, limits: Limits) -> tuple[Largest, Reading | None]:
    if seen.setting.compute != "fp16":
        return state, None
    layers, gradient = seen.layers, seen.layers.grad_norm
    largest = np.fmax(state.gradient, gradient) if state.gradient.size else gradient
    # Gradients of a layer that has learnt what it can may vanish.
    judged = np.isfinite(layers.subnormal) & (gradient > CONVERGED * largest)
    strength = np.where(judged, ratio(layers.subnormal, limits["share"]), np.nan)

    def explain(i: int) -> Sign:
        scale = seen.rows.loss_scale[-1:]
        known = scale.size and math.isfinite(scale[0])
        return Sign({"share": float(layers.subnormal[i]), "scale": float(scale[0]) if known else None})

    return Largest(largest), Reading(strength, layers.names, explain)


class Outputs(NamedTuple):
    """The largest outputs of each module at the last sampled passes, and their steps, oldest first.

    Both arrays have shape [passes, modules]; what was not known has no place in them.
    """

    modules: tuple[str, ...] = ()
    largest: np.ndarray = np.zeros((0, 0))
    step: np.ndarray = np.zeros((0, 0))


class Near(NamedTuple):
    """How near to its limit each output is (1: within the bits), and after how many steps it is there; [modules]."""

    strength: np.ndarray
    steps_left: np.ndarray


def _watched(state: Outputs, outputs: tuple[ModuleOutput, ...], step: int, limits: Limits) -> tuple[Outputs, Near]:
    """Return the state after a sampled pass, and what it says."""
    names = tuple(output.module for output in outputs)
    state = _aligned(state, names)
    largest = np.array([output.largest for output in outputs], dtype=float)
    limit = np.array([output.limit for output in outputs], dtype=float) * 2.0 ** -limits["bits"]
    # An activation is never twice the same: a value that is fills the places of a mask.
    known = np.isfinite(largest) & (largest > 0) & (largest != state.largest[-1])
    history = _appended(state.largest, largest, known)
    steps = _appended(state.step, np.full(len(names), float(step)), known)
    near = largest >= FAR * limit
    left = _steps_left(history, steps, limit) if near.any() else np.full(len(names), np.inf)
    coming = (left <= limits["horizon"]) & near
    # How soon is no matter of degree: it opens a finding, and nearness alone updates it.
    strength = np.maximum(coming * 1.0, largest / limit)
    return Outputs(names, history, steps), Near(np.where(known, strength, np.nan), left)


def _appended(history: np.ndarray, values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the history with new values at its end, in the columns where they are known; [passes, modules]."""
    longer = np.concatenate((history[1:], values[None]))
    return longer if known.all() else np.where(known, longer, history)


def _steps_left(history: np.ndarray, steps: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Return after how many steps each output reaches its limit, shape [modules]; inf where it does not grow steadily.

    Nobody extrapolates a growth further than twice as far as it has been seen.
    """
    known = np.isfinite(history)
    count = known.sum(axis=0)
    first = np.argmax(known, axis=0)
    columns = np.arange(history.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        growth = history[-1] / history[first, columns]
        span = steps[-1] - steps[first, columns]
        steady = (np.diff(history, axis=0) > 0).sum(axis=0) >= count - 1
        left = np.maximum(np.log(limit / history[-1]), 0.0) * span / np.log(growth)
    grows = (count >= MIN_PASSES) & steady & (growth >= GROWN) & (left <= 2 * span)
    return np.where(grows, left, np.inf)


def _aligned(state: Outputs, names: tuple[str, ...]) -> Outputs:
    """Return the state with a column for each module of this pass."""
    if state.modules == names and state.largest.shape == (PASSES, len(names)):
        return state
    place = {module: i for i, module in enumerate(state.modules)}
    largest, steps = np.full((PASSES, len(names)), np.nan), np.full((PASSES, len(names)), np.nan)
    for i, name in enumerate(names):
        if name in place:
            largest[:, i], steps[:, i] = state.largest[:, place[name]], state.step[:, place[name]]
    return Outputs(names, largest, steps)


def _overflow(state: Outputs, seen: Observation, limits: Limits) -> tuple[Outputs, Reading | None]:
    if seen.forward is None or not seen.forward.outputs:
        return state, None
    outputs = seen.forward.outputs
    after, near = _watched(state, outputs, seen.step, limits)

    def explain(i: int) -> Sign:
        left = float(near.steps_left[i])
        evidence = {
            "largest": outputs[i].largest,
            "limit": outputs[i].limit,
            "steps_left": round(left) if math.isfinite(left) else None,
        }
        coming = f" It grows, and is there in about {left:.0f} steps." if 0 < left < math.inf else ""
        message = rules.ACTIVATION.message.format(layer=after.modules[i], **evidence) + coming
        return Sign(evidence, message=message)

    return after, Reading(near.strength, after.modules, explain)


class Range(NamedTuple):
    """What was skipped, and the largest output last looked at.

    The largest output of a pass that equals that of the one before fills the places of a mask.
    """

    skips: Skips = Skips()
    largest: float = math.nan


def _range(state: Range, seen: Observation, limits: Limits) -> tuple[Range, Reading | None]:
    if seen.setting.compute != "fp16" or not seen.setting.has_bf16:
        return state, None
    skips = _remember(state.skips, seen.rows)
    overflows = float(skips.skipped.sum()) if skips.skipped.size and skips.seen > state.skips.seen else math.nan
    outputs = seen.forward.outputs if seen.forward is not None else ()
    largest = max(
        (o.largest for o in outputs if o.limit <= LARGEST_FP16 and math.isfinite(o.largest)), default=math.nan
    )
    near = math.nan if largest == state.largest else largest / (LARGEST_FP16 * 2.0 ** -limits["bits"])
    after = Range(skips, state.largest if math.isnan(largest) else largest)
    # Either may be unknown, not both.
    strength = float(np.fmax(overflows / limits["overflows"], near))

    def explain() -> Sign:
        count = 0 if math.isnan(overflows) else int(overflows)
        return Sign({"overflows": count, "largest": None if math.isnan(largest) else largest})

    return after, whole_run(strength, explain)


DETECTORS = (
    remembering(rules.COLLAPSE, Scale, _collapse),
    remembering(rules.STUCK, Stuck, _stuck),
    remembering(rules.SKIPPED, Skips, _skipped),
    remembering(rules.UNDERFLOW, Largest, _underflow, by_layer=("gradient",)),
    remembering(rules.ACTIVATION, Outputs, _overflow, needs="forward"),
    remembering(rules.RANGE, Range, _range),
)
