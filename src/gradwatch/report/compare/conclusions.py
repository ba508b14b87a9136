"""What a comparison comes to, in sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from gradwatch.report.compare import words
from gradwatch.report.compare.curves import LOSS
from gradwatch.report.compare.losses import lost_alone, lost_among
from gradwatch.report.compare.outcomes import GroupOutcome, PairOutcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradwatch.report.compare.comparison import Comparison
    from gradwatch.report.compare.outcomes import CurveComparison, Stretch

ADVICE = (
    "One run of each cannot tell chance from cause: train every setting with 3 to 5 seeds"
    " (seed_everything(0), seed_everything(1), ...) and compare all of them."
)


class Conclusion(NamedTuple):
    """A sentence, and what there is to say beside it."""

    headline: str
    detail: str


def conclusions(comparison: Comparison) -> list[Conclusion]:
    """Return what the curves say of each group but the first; of an only group, what it is."""
    groups = comparison.groups
    if len(groups) == 1:
        return [_begun_by(lost_among(groups[0]), _one_experiment(comparison))]
    conclude = _pair if comparison.one_to_one else _against_first
    return [_begun_by(lost_alone(groups, index), conclude(comparison, index)) for index in range(1, len(groups))]


def _begun_by(sentence: str, conclusion: Conclusion) -> Conclusion:
    return conclusion._replace(headline=f"{sentence} {conclusion.headline}".strip())


def _one_experiment(comparison: Comparison) -> Conclusion:
    group = comparison.groups[0]
    loss = _curve(comparison, LOSS)
    end = f"Loss at the end: {words.curve_ending(loss, 0)}. " if loss else ""
    if comparison.strays:
        return Conclusion(_strays(comparison), end.strip())
    return Conclusion(
        f"{len(group.members)} runs of one experiment: there is no other group to compare them with.",
        f"{end}Name the runs of a second group, or set them apart by --against.",
    )


def _strays(comparison: Comparison) -> str:
    first, *others = comparison.strays
    labels = dict.fromkeys(stray.label for stray in others if stray.label != first.label)
    also = f"; so do later {', '.join(labels)}" if labels else ""
    return (
        f"Of {len(comparison.groups[0].members)} runs of one experiment {first.label} leaves the others:"
        f" its {first.quantity} is {_from_step(first.stretches[0])}, beyond their spread{also}."
    )


# -- groups with a spread ----------------------------------------------------------------------------------------------


def _against_first(comparison: Comparison, index: int) -> Conclusion:
    me, first = words.letter(index), words.letter(0)
    outcomes = [curve.outcomes[index - 1] for curve in comparison.curves]
    if not any(outcomes):
        return _nothing_in_common(comparison, index)
    parted = _parted(comparison.curves, index)
    if not parted:
        return _alike(comparison, index)
    step = parted[0][1].stretches[0].first
    together = ", ".join(words.curve_name(curve) for curve, outcome in parted if outcome.stretches[0].first == step)
    headline = f"{me} parts from {first} at step {step} ({together}), beyond the spread of the seeds."
    return Conclusion(headline, _loss(comparison, index))


def _alike(comparison: Comparison, index: int) -> Conclusion:
    me, first = words.letter(index), words.letter(0)
    layers = _parted(comparison.layers, index)
    if not layers:
        headline = f"{me} does not differ from {first} beyond the spread of the seeds, in no curve and in no layer."
        return Conclusion(headline, _loss(comparison, index))
    curve, outcome = layers[0]
    begun = f"{words.curve_name(curve)}, {_from_step(outcome.stretches[0])}"
    return Conclusion(
        f"{me} differs from {first} beyond the spread of the seeds in {len(layers)} of {len(comparison.layers)} layers"
        f" alone, first in {begun}.",
        _loss(comparison, index),
    )


def _parted(curves: Iterable[CurveComparison], index: int) -> list[tuple[CurveComparison, GroupOutcome]]:
    found = [
        (curve, outcome)
        for curve in curves
        if isinstance(outcome := curve.outcomes[index - 1], GroupOutcome) and outcome.stretches
    ]
    return sorted(found, key=lambda each: each[1].stretches[0].first)


def _loss(comparison: Comparison, index: int) -> str:
    """Return what became of the loss, which is what most want to know."""
    curve = _curve(comparison, LOSS)
    outcome = curve.outcomes[index - 1] if curve else None
    if curve is None or not isinstance(outcome, GroupOutcome):
        return ""
    if not outcome.stretches:
        return f"Its loss does not differ{_unseen(outcome)}."
    text = f"Its loss is {_from_step(outcome.stretches[0])}{', and again later' if len(outcome.stretches) > 1 else ''}"
    ratio = curve.ratios()[index - 1]
    if curve.domain.logarithmic and math.isfinite(ratio):
        text += f"; at the end it is {words.number(ratio)} times that of {words.letter(0)}"
    return f"{text}."


def _from_step(stretch: Stretch) -> str:
    how = "higher" if stretch.larger else "lower"
    return f"{how} from step {stretch.first} {'on' if stretch.last is None else f'to {stretch.last}'}"


def _unseen(outcome: GroupOutcome) -> str:
    if outcome.resolution > words.TOO_COARSE:
        return ", as far as so few runs can tell: use 3 to 5 seeds for each"
    return f"; a lasting one of less than about {words.percent(outcome.resolution)} would not show with so many runs"


# -- one run against one -----------------------------------------------------------------------------------------------


def _pair(comparison: Comparison, index: int) -> Conclusion:
    me, first = words.letter(index), words.letter(0)
    found = [
        (curve, outcome)
        for curve in (*comparison.curves, *comparison.layers)
        if isinstance(outcome := curve.outcomes[index - 1], PairOutcome)
    ]
    if not found:
        return _nothing_in_common(comparison, index)
    apart = [(outcome.step, curve, outcome) for curve, outcome in found if outcome.step is not None]
    if not apart:
        steps = max(outcome.alike for _, outcome in found)
        return Conclusion(f"{first} and {me} are identical, bit for bit, at all {steps:,} common steps.", "")
    step, curve, outcome = min(apart, key=lambda each: each[0])
    alike = f"identical at {outcome.alike:,} steps and differ" if outcome.alike else "different"
    headline = f"{first} and {me} are {alike} from step {step} on ({_by(curve, outcome)})."
    return Conclusion(headline, f"{_visible(found, step)}{ADVICE}")


def _by(curve: CurveComparison, outcome: PairOutcome) -> str:
    name = words.curve_name(curve)
    if math.isinf(outcome.size):
        return f"the {name} of one of them is not finite"
    rounding = ", as by rounding" if outcome.size < words.ROUNDING else ""
    return f"{name} by {words.difference(outcome.size)}{rounding}"


def _visible(found: list[tuple[CurveComparison, PairOutcome]], step: int) -> str:
    """Return when a difference that was too small to see has grown."""
    visible = min((outcome.visible for _, outcome in found if outcome.visible is not None), default=None)
    if visible is None:
        return "No curve ever differs by over 1 %. "
    return f"The first curve to differ by over 1 % does so from step {visible} on. " if visible > step else ""


def _nothing_in_common(comparison: Comparison, index: int) -> Conclusion:
    me, first = words.letter(index), words.letter(0)
    empty = [words.letter(place) for place in (0, index) if not comparison.groups[place].has_records]
    if not empty:
        return Conclusion(f"{me} and {first} have no steps in common: nothing can be said of their curves.", "")
    have, whose = ("has", "its") if len(empty) == 1 else ("have", "their")
    return Conclusion(f"{' and '.join(empty)} {have} no record of a step: nothing can be said of {whose} curves.", "")


def _curve(comparison: Comparison, quantity: str) -> CurveComparison | None:
    return next((curve for curve in comparison.curves if curve.quantity == quantity), None)
