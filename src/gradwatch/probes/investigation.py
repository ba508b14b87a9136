"""From slopes to a verdict: where a derivative disagrees, is it the code, a kink, or a gradient stopped on purpose."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from gradwatch.probes.correctness import TENSOR_TOLERANCE, WHOLE_TOLERANCE
from gradwatch.probes.hooks import HooksSilenced
from gradwatch.probes.slopes import Slope, worst
from gradwatch.probes.stop_gradients import OtherPathError, StopGradients

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from gradwatch.probes.measurement import Measurement
    from gradwatch.records import CheckVerdict, Explanation

    Merge = Callable[["Answer", "Answer"], "Answer"]
    Rule = Callable[[CheckVerdict, CheckVerdict], CheckVerdict]

# A right gradient at a point without a kink agrees many times better than one that was taken at a kink.
GONE = 1e-2
SUSPECT = frozenset({"mismatch", "kink"})


class Effort(NamedTuple):
    """Along how many directions all weights together, and each tensor by itself, are checked; the seed of the first."""

    directions: int
    tensor_directions: int
    seed: int = 0


THOROUGH = Effort(directions=3, tensor_directions=2)
QUICK = Effort(directions=2, tensor_directions=1)


class Answer(NamedTuple):
    """What the slopes of one tensor, or of all weights together, say: of each objective, and of all."""

    verdict: CheckVerdict
    by_objective: Mapping[str, CheckVerdict]
    slopes: tuple[Slope, ...]

    @property
    def error(self) -> float:
        """The largest relative error."""
        return self.worst_slope.error if self.slopes else 0.0

    @property
    def worst_slope(self) -> Slope:
        """The one that is furthest off."""
        return max(self.slopes, key=lambda slope: slope.error if math.isfinite(slope.error) else math.inf)


class Outcome(NamedTuple):
    """The whole-model answer, that of each tensor that was asked, and what explains the differences."""

    whole: Answer
    tensors: Mapping[str, Answer]
    explanations: list[Explanation]


def investigate(measurement: Measurement, names: Collection[str], each: Collection[str], effort: Effort) -> Outcome:
    """Check all weights together along a few directions, then single tensors.

    Args:
        measurement: at the weights of the training.
        names: of all parameters.
        each: of those that are checked one by one in any case; after a failure all are.
        effort: how many directions.
    """
    whole = _ask_all(measurement, names, effort)
    if whole.verdict in SUSPECT:
        each = names
    tensors = {name: _ask_tensor(measurement, name, effort) for name in each}
    suspects = [name for name, answer in tensors.items() if answer.verdict in SUSPECT]
    if not suspects and whole.verdict not in SUSPECT:
        return Outcome(whole, tensors, [])
    return _explained(measurement, Outcome(whole, tensors, []), suspects, effort)


def _explained(measurement: Measurement, outcome: Outcome, suspects: list[str], effort: Effort) -> Outcome:
    """Ask again with every stop of a gradient held constant and every hook left out, then a little further on."""
    stops, hooks = StopGradients(), HooksSilenced()
    try:
        freed = measurement.without_stops(stops, hooks)
        outcome = _ask_again(outcome, suspects, freed, effort, _explain)
    except OtherPathError:  # the step stops gradients at other places when its weights move
        freed = measurement
    explanations = [*stops.explanations(), *hooks.explanations()]
    left = [name for name in suspects if outcome.tensors[name].verdict in SUSPECT]
    if left or outcome.whole.verdict in SUSPECT:
        outcome = _ask_again(outcome, left, freed.nearby(effort.seed), effort, _move_on)
    return outcome._replace(explanations=explanations if _any_explained(outcome) else [])


def _ask_again(
    outcome: Outcome, suspects: list[str], measurement: Measurement, effort: Effort, merge: Merge
) -> Outcome:
    tensors = dict(outcome.tensors)
    for name in suspects:
        tensors[name] = merge(tensors[name], _ask_tensor(measurement, name, effort))
    whole = outcome.whole
    if whole.verdict in SUSPECT:
        whole = merge(whole, _ask_all(measurement, list(measurement.weights), effort))
    return outcome._replace(whole=whole, tensors=tensors)


def _merged(first: Answer, second: Answer, rule: Rule) -> Answer:
    by_objective = {
        name: rule(verdict, second.by_objective[name])
        if verdict in SUSPECT and name in second.by_objective
        else verdict
        for name, verdict in first.by_objective.items()
    }
    return first._replace(verdict=_together(list(by_objective.values())), by_objective=by_objective)


def _explain(first: Answer, second: Answer) -> Answer:
    return _merged(first, second, _as_explained)


def _move_on(first: Answer, second: Answer) -> Answer:
    return _merged(first, _nearby(first, second), _elsewhere)


def _nearby(first: Answer, second: Answer) -> Answer:
    """A consistent difference that is only a little smaller further on has not gone: it is random, as rounding is."""
    verdict: CheckVerdict = second.verdict
    if first.verdict == "mismatch" and verdict == "pass" and second.error > first.error * GONE:
        return second._replace(verdict="mismatch", by_objective=dict.fromkeys(second.by_objective, "mismatch"))
    return second


def _as_explained(first: CheckVerdict, second: CheckVerdict) -> CheckVerdict:
    """With the stops held: agreement explains the difference."""
    if second in {"pass", "not_resolvable"}:
        return "explained"
    return second if second in SUSPECT else first


def _elsewhere(first: CheckVerdict, second: CheckVerdict) -> CheckVerdict:
    """A little further on: the code is asked, not the point. A kink that has moved away leaves a right gradient."""
    if second == "pass":
        return "pass"
    return "mismatch" if "mismatch" in {first, second} else "kink"


def _any_explained(outcome: Outcome) -> bool:
    return "explained" in {outcome.whole.verdict, *(answer.verdict for answer in outcome.tensors.values())}


def _ask_all(measurement: Measurement, names: Collection[str], effort: Effort) -> Answer:
    return _ask(measurement, names, WHOLE_TOLERANCE, _seeds(effort, effort.directions))


def _ask_tensor(measurement: Measurement, name: str, effort: Effort) -> Answer:
    return _ask(measurement, [name], TENSOR_TOLERANCE, _seeds(effort, effort.tensor_directions))


def _seeds(effort: Effort, count: int) -> list[int]:
    return [effort.seed + 1000 * index for index in range(count)]


def _ask(measurement: Measurement, names: Collection[str], tolerance: float, seeds: Sequence[int]) -> Answer:
    """Measure along a few directions; each objective's verdict is the worst of them that resolves anything."""
    slopes: dict[str, list[Slope]] = {}
    for seed in seeds:
        for name, slope in measurement.along(names, seed, tolerance).items():
            slopes.setdefault(name, []).append(slope)
    by_objective = {name: _together([slope.verdict for slope in found]) for name, found in slopes.items()}
    flat = tuple(slope for found in slopes.values() for slope in found)
    return Answer(_together(list(by_objective.values())), by_objective, flat)


def _together(verdicts: list[CheckVerdict]) -> CheckVerdict:
    """A direction or an objective that resolves nothing says nothing beside one that does."""
    resolved = [verdict for verdict in verdicts if verdict != "not_resolvable"]
    return worst(resolved or verdicts)
