"""A comparison in sentences and short phrases, for the terminal and the page alike."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradwatch.report.compare.outcomes import PairOutcome
from gradwatch.report.compare.pair import VISIBLE
from gradwatch.report.compare.windows import LEAST_SPREAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.report.compare.comparison import Comparison
    from gradwatch.report.compare.outcomes import CurveComparison, Ending, Outcome, Stretch

# Relative differences below this are what another order of the same additions makes in float32.
ROUNDING = 1e-5
# Runs that would only show a relative difference beyond this show nothing.
TOO_COARSE = 10.0
_MOST_STRETCHES = 2


def letter(index: int) -> str:
    """Return what a group is called in tables: A to Z, then group 27 and so on."""
    return chr(ord("A") + index) if index < 26 else f"group {index + 1}"  # noqa: PLR2004 - the alphabet


def seeds_differ(comparison: Comparison) -> bool:
    """Whether any two runs have not the same seed."""
    return len({member.seed for group in comparison.groups for member in group.members}) > 1


def curve_name(curve: CurveComparison) -> str:
    """Return what a curve is called."""
    name = curve.quantity if curve.layer is None else curve.layer
    return f"{name} (optimizer {curve.optimizer})" if curve.optimizer else name


def number(value: float) -> str:
    """Return a number to three digits."""
    return "unknown" if math.isnan(value) else f"{value:.3g}"


def percent(share: float) -> str:
    """Return a relative difference as percent; large ones as a factor."""
    if math.isinf(share):
        return "any size"
    if share >= 10:  # noqa: PLR2004 - 1000 % says less
        return f"{share:.2g} times"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"  # noqa: PLR2004 - two digits


def curve_ending(curve: CurveComparison, index: int) -> str:
    """Return mean and spread of a group at the end of a curve."""
    return ending(curve.endings()[index], logarithmic=curve.domain.logarithmic)


def ratio(curve: CurveComparison, index: int) -> str:
    """Return how many times the first group's mean that of another is at the end; nothing where signs may differ."""
    return number(curve.ratios()[index - 1]) if curve.domain.logarithmic else ""


def ending(end: Ending, *, logarithmic: bool) -> str:
    """Return mean and spread at the end."""
    if not end.runs:
        return "not finite" if end.nonfinite else "no record"
    if math.isnan(end.high) or end.high - end.mean <= LEAST_SPREAD * abs(end.mean):
        return number(end.mean)
    if logarithmic:
        return f"{number(end.mean)} ± {percent(end.high / end.mean - 1)}"
    return f"{number(end.mean)} ± {number(end.high - end.mean)}"


def layers_apart(comparison: Comparison, index: int) -> list[CurveComparison]:
    """Return the layers in which a group differs from the first, in the order in which they begin to."""
    steps = [(outcome.step, curve) for curve in comparison.layers if (outcome := curve.outcomes[index - 1])]
    known = [(step, curve) for step, curve in steps if step is not None]
    return [curve for _, curve in sorted(known, key=lambda each: each[0])]


def where(outcome: Outcome | None) -> str:
    """Return where two groups differ in a curve."""
    if outcome is None:
        return "nothing to compare"
    if isinstance(outcome, PairOutcome):
        return _where_pair(outcome)
    if outcome.stretches:
        return stretches_in_words(outcome.stretches)
    if outcome.resolution > TOO_COARSE:
        return "too few runs to tell"
    return "no" if outcome.resolution < ROUNDING else f"no, or by under {percent(outcome.resolution)}"


def stretches_in_words(stretches: Sequence[Stretch]) -> str:
    """Return over which steps a group is higher or lower."""
    parts: list[str] = []
    for number, stretch in enumerate(stretches[:_MOST_STRETCHES]):
        again = number > 0 and stretch.larger == stretches[number - 1].larger
        text = stretch_in_words(stretch)
        parts.append(text.partition(" ")[2] if again else text)
    return ", ".join(parts + ["..."] * (len(stretches) > _MOST_STRETCHES))


def stretch_in_words(stretch: Stretch) -> str:
    """Return over which steps a group is higher or lower, once."""
    how = "higher" if stretch.larger else "lower"
    return f"{how} from {stretch.first} on" if stretch.last is None else f"{how} {stretch.first} to {stretch.last}"


def _where_pair(outcome: PairOutcome) -> str:
    if outcome.step is None:
        return "identical"
    if outcome.nonfinite is not None and outcome.nonfinite == outcome.step:
        return f"one is not finite from {outcome.step} on"
    parts = [f"from {outcome.step} on"]
    if outcome.visible is None:
        parts.append(f"by {difference(outcome.largest)} at most")
    elif outcome.visible != outcome.step:
        parts.append(f"over {percent(VISIBLE)} from {outcome.visible}")
    if outcome.nonfinite is not None:
        parts.append(f"one is not finite from {outcome.nonfinite} on")
    return ", ".join(parts)


def difference(share: float) -> str:
    """Return the relative difference of two numbers, which may be one of a last digit."""
    return f"{share:.1g} of its value" if share < 1e-4 else percent(share)  # noqa: PLR2004 - 0.01 %
