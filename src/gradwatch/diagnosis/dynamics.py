"""Is this a growing run rather than a single bad operation? From the steps before an incident.

A run that diverges multiplies its norms step by step until a product overflows somewhere; that operation is a victim.
So two things must come together: numbers that grew over several steps, and a birth that large numbers explain.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from gradwatch.diagnosis.circumstances import LARGE, Birth, limit, magnitude
from gradwatch.diagnosis.wording import Text, consequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.diagnosis.circumstances import Circumstances
    from gradwatch.records import Origin, TensorSummary

Quantity = Literal["gradient norm", "loss"]

# Two rises: one outlier batch makes one, so the rise must be considerable without its largest step.
MIN_STEPS, WITHOUT_LARGEST = 3, 30.0
# Growth that lasts: slower than this per step is what warm-up and the end of a plateau look like.
SLOWEST = 1.2
# Noise of healthy runs stays within a factor of some tens; 1000 over a rise that holds does not happen by chance.
RISE = 1e3
# What the other quantity must show to confirm it. A norm that rises from a tiny start goes with a loss that falls.
CONFIRMING = 10.0
# Where one quantity stands alone (a bounded loss, no loss known), only an absurd value counts: clip limits in use lie
# below 20, and gradients of a model that starts at zero end near 1.
ALONE_RISE, ALONE_SIZE = 1e4, 1e4
# How far it may fall back on the way, as a part of the whole rise in logarithms: divergences zigzag.
FALL_BACK = 0.25
# Beyond everything seen before the growth began, or it is a range in which this run has always wandered.
NOVELTY = 10.0
# A loss or norm that no healthy run has: a product of two such overflows float32. Then a birth needs inputs that
# overflow as a product of four only: the derivatives of normalisations multiply as many.
RUNAWAY = 1e17
# exp overflows float32 at 89, and a log-variance of 95 is a single bad operation; ten times the edge is no near miss.
FAR_BEYOND = 10.0
EXPONENTIALS = frozenset({"exp", "exp2", "expm1", "cosh", "sinh"})


class Growth(NamedTuple):
    """A rise over the last steps: from ``first`` at ``since_step`` to ``last``, over ``steps`` rows."""

    since_step: int
    factor_per_step: float
    quantity: Quantity
    first: float
    last: float
    steps: int


class Rise(NamedTuple):
    """A rise of logarithms: where it starts, and how much it gains over all its rows."""

    start: int
    gain: float


def growth(steps: Sequence[int], losses: Sequence[float | None], grad_norms: Sequence[float]) -> Growth | None:
    """Return how gradient norm or loss has grown up to the last finite row, or None.

    Args:
        steps: the optimizer steps before the incident, oldest first.
        losses: the loss of each, None where it is not known; may be non-finite.
        grad_norms: total L2 norm of the gradient before clipping; may be non-finite.
    """
    series: dict[Quantity, list[float]] = {
        "gradient norm": [_logarithm(norm) for norm in grad_norms],
        "loss": [_logarithm(loss) for loss in losses],
    }
    candidates = [
        grown for name in series if (grown := _growth_of(steps, name, series[name], _other(series, name))) is not None
    ]
    return max(candidates, key=lambda grown: grown.last / grown.first, default=None)


def is_dynamics(growth: Growth | None, origin: Origin) -> bool:
    """Whether the run had been growing and the birth is one that large numbers explain.

    A logarithm of 0 or a fully masked row after a growing history is still a single bad operation.
    """
    if growth is None or origin.transition is None:
        return False
    return any(_runs_away(summary, origin, growth) for summary in origin.inputs if limit(summary.dtype))


def _runs_away(summary: TensorSummary, origin: Origin, growth: Growth) -> bool:
    """Whether one input is so large that it explains the birth."""
    largest, end = magnitude(summary), limit(summary.dtype)
    if origin.op in EXPONENTIALS and origin.transition == "finite->inf":
        return largest >= FAR_BEYOND * math.log(end)
    threshold: float = end ** (LARGE / 2 if growth.last >= RUNAWAY else LARGE)
    return largest >= threshold


def dynamics_text(growth: Growth | None, origin: Origin, circumstances: Circumstances) -> Text:
    """Return explanation and advice for a run that had been growing; ``growth`` None if its numbers are lost."""
    victim = f", until {origin.op} overflowed" if origin.op else ""
    happened = f"{_grew(growth)}{victim}: the run diverged, and no module or operation is to blame."
    return Text(
        " ".join(filter(None, [happened, consequence(Birth(origin, circumstances))])),
        "Lower the learning rate, by 10 times to begin with, or warm it up over the first few hundred steps; clip the"
        " gradient norm (1.0 for transformers and recurrent networks). Go back to a checkpoint from before the growth;"
        " if it began at the first steps, check the scale of initial weights and inputs too.",
    )


def _grew(growth: Growth | None) -> str:
    if growth is None:
        return "The numbers of this run had been growing for steps"
    return (
        f"The {growth.quantity} grew {growth.factor_per_step:.3g}x per step since step {growth.since_step}, from"
        f" {growth.first:.3g} to {growth.last:.3g} over {growth.steps} steps"
    )


def _growth_of(steps: Sequence[int], name: Quantity, values: list[float], other: list[float]) -> Growth | None:
    end = next((i + 1 for i in range(len(values) - 1, -1, -1) if math.isfinite(values[i])), 0)
    begin = next((i + 1 for i in range(end - 1, -1, -1) if not math.isfinite(values[i])), 0)
    rise = _best_rise(values[begin:end])
    if rise is None:
        return None
    start, last = begin + rise.start, end - 1
    if not (_is_confirmed(other[start:end]) or _stands_alone(rise, values[last])):
        return None
    return Growth(
        since_step=steps[start],
        factor_per_step=math.exp(rise.gain / (last - start)),
        quantity=name,
        first=math.exp(values[start]),
        last=math.exp(values[last]),
        steps=end - start,
    )


def _best_rise(values: Sequence[float]) -> Rise | None:
    """Return the rise up to the last value that gains most beyond the slowest growth that counts."""
    rises = [Rise(start, values[-1] - values[start]) for start in range(len(values) - MIN_STEPS + 1)]
    holding = [rise for rise in rises if _holds(values, rise)]
    slowest = math.log(SLOWEST)
    return max(holding, key=lambda rise: rise.gain + slowest * rise.start, default=None)


def _holds(values: Sequence[float], rise: Rise) -> bool:
    steps = len(values) - 1 - rise.start
    if rise.gain < math.log(RISE) or rise.gain < steps * math.log(SLOWEST):
        return False
    before = max(values[: rise.start], default=-math.inf)
    return (
        values[-1] >= before + math.log(NOVELTY)
        and _deepest_fall(values[rise.start :]) <= FALL_BACK * rise.gain
        and rise.gain - _largest_step(values[rise.start :]) >= math.log(WITHOUT_LARGEST)
    )


def _deepest_fall(values: Sequence[float]) -> float:
    top, deepest = -math.inf, 0.0
    for value in values:
        top = max(top, value)
        deepest = max(deepest, top - value)
    return deepest


def _largest_step(values: Sequence[float]) -> float:
    return max(after - before for before, after in pairwise(values))


def _is_confirmed(other: Sequence[float]) -> bool:
    """Whether the other quantity grew over the same rows."""
    known = [value for value in other if math.isfinite(value)]
    return len(known) >= MIN_STEPS - 1 and known[-1] - known[0] >= math.log(CONFIRMING)


def _stands_alone(rise: Rise, last: float) -> bool:
    return rise.gain >= math.log(ALONE_RISE) and last >= math.log(ALONE_SIZE)


def _other(series: dict[Quantity, list[float]], name: Quantity) -> list[float]:
    return series["loss" if name == "gradient norm" else "gradient norm"]


def _logarithm(value: float | None) -> float:
    """Return the logarithm of the magnitude: a loss may be negative; NaN for what has none."""
    if value is None or not math.isfinite(value) or value == 0.0:
        return math.nan
    return math.log(abs(value))
