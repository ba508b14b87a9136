"""From slopes to a verdict: where a derivative disagrees, is it the code, a kink, or a gradient stopped on purpose."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from gradwatch.probes.correctness import TENSOR_TOLERANCE, WHOLE_TOLERANCE
from gradwatch.probes.hooks import HooksSilenced
from gradwatch.probes.slopes import Slope, worst
from gradwatch.probes.stop_gradients import ALL_KINDS, OtherPathError, StopGradients

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
    """Along how many directions all weights together, and each tensor by itself, are checked; the seed of the first.

    ``most``: how many single tensors are asked, and how many groups after a failure.
    """

    directions: int
    tensor_directions: int
    most: int
    seed: int = 0


THOROUGH = Effort(directions=3, tensor_directions=2, most=64)
QUICK = Effort(directions=2, tensor_directions=1, most=12)


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

    @property
    def is_resolved(self) -> bool:
        """Whether the loss moves with the weights by more than its round-off."""
        return self.whole.verdict != "not_resolvable"


def investigate(
    measurement: Measurement,
    each: Collection[str],
    effort: Effort,
    *,
    expect_stops: bool = False,
    tell_apart: bool = True,
    in_doubt: Callable[[], None] = lambda: None,
) -> Outcome:
    """Check all weights together along a few directions, then single tensors.

    Args:
        measurement: at the weights of the training.
        each: names of tensors that are checked one by one in any case.
        effort: how many directions, and how many single tensors at most.
        expect_stops: the step is known to stop gradients on purpose: it is checked with them held constant at once.
        tell_apart: after a mismatch, find the tensors that are wrong among those that were not asked.
        in_doubt: called before the first direction that does not pass is looked into; raises to end the check.
    """
    if expect_stops:
        outcome = _with_stops_held(measurement, effort)
        if outcome is not None:
            return outcome
    whole = _ask_all(measurement, effort)
    if whole.verdict != "pass":
        in_doubt()
    tensors = {name: _ask_tensor(measurement, name, effort) for name in _spread(each, effort.most)}
    suspects = [name for name, answer in tensors.items() if answer.verdict in SUSPECT]
    if not suspects and whole.verdict not in SUSPECT:
        return Outcome(whole, tensors, [])
    outcome, freed = _explained(measurement, Outcome(whole, tensors, []), suspects, effort)
    if outcome.whole.verdict == "mismatch" and tell_apart:
        unasked = [name for name in measurement.weights if name not in tensors]
        outcome = outcome._replace(tensors={**outcome.tensors, **_told_apart(freed, unasked, effort)})
    return outcome


def _with_stops_held(measurement: Measurement, effort: Effort) -> Outcome | None:
    """Return the outcome if everything agrees with the stops held constant."""
    stops, hooks = StopGradients(), HooksSilenced()
    try:
        whole = _ask_all(measurement.without_stops(stops, hooks), effort)
    except OtherPathError:
        return None
    explanations = [*stops.explanations(), *hooks.explanations()]
    if whole.verdict != "pass" or not explanations:
        return None
    by_objective: dict[str, CheckVerdict] = dict.fromkeys(whole.by_objective, "explained")
    return Outcome(whole._replace(verdict="explained", by_objective=by_objective), {}, explanations)


def _explained(
    measurement: Measurement, outcome: Outcome, suspects: list[str], effort: Effort
) -> tuple[Outcome, Measurement]:
    """Ask again with the stops of gradients held constant and the hooks left out, then a little further on.

    Returns the outcome, and the measurement with stops held and hooks left out.
    """
    kept: tuple[Outcome, Measurement, list[Explanation]] | None = None
    for kinds in (ALL_KINDS, ALL_KINDS - {"no_grad"}):
        stops, hooks = StopGradients(kinds), HooksSilenced()
        try:
            held = measurement.without_stops(stops, hooks)
            asked = _ask_again(outcome, suspects, held, effort, _explain)
        except OtherPathError:  # the step stops gradients at other places when its weights move
            continue
        attempt = asked, held, [*stops.explanations(), *hooks.explanations()]
        kept = kept or attempt
        settled = asked.whole.verdict not in SUSPECT and not _left(asked, suspects)
        if settled:
            kept = attempt
        # What is computed without gradients may be an input of a custom function that differentiates it rightly.
        if settled or "no_grad" not in stops.kinds or len(stops.kinds) == 1:
            break
    # Where neither settles everything, the first still explains some of it.
    outcome, freed, explanations = kept or (outcome, measurement, [])
    left = _left(outcome, suspects)
    if left or outcome.whole.verdict in SUSPECT:
        outcome = _ask_again(outcome, left, freed.nearby(effort.seed), effort, _move_on)
    return outcome._replace(explanations=explanations if _any_explained(outcome) else []), freed


def _left(outcome: Outcome, suspects: Collection[str]) -> list[str]:
    return [name for name in suspects if outcome.tensors[name].verdict in SUSPECT]


def _told_apart(measurement: Measurement, names: list[str], effort: Effort) -> dict[str, Answer]:
    """Find the tensors that are wrong by halving groups; where the effort ends, those left are told from none."""
    found: dict[str, Answer] = {}
    groups = [names] if names else []
    for _ in range(effort.most):
        if not groups:
            break
        group = groups.pop(0)
        tolerance = TENSOR_TOLERANCE if len(group) == 1 else WHOLE_TOLERANCE
        answer = _ask(measurement, group, tolerance, _seeds(effort, effort.tensor_directions))
        if len(group) == 1:
            found[group[0]] = answer
        elif answer.verdict in SUSPECT:
            groups += [group[: len(group) // 2], group[len(group) // 2 :]]
        else:
            found.update(dict.fromkeys(group, answer._replace(slopes=())))
    return found


def _spread(names: Collection[str], most: int) -> list[str]:
    """Return at most that many names, evenly spread over all."""
    listed = list(names)
    every = -(-len(listed) // most)
    return listed[::every] if listed else []


def _ask_again(
    outcome: Outcome, suspects: list[str], measurement: Measurement, effort: Effort, merge: Merge
) -> Outcome:
    tensors = dict(outcome.tensors)
    for name in suspects:
        tensors[name] = merge(tensors[name], _ask_tensor(measurement, name, effort))
    whole = outcome.whole
    if whole.verdict in SUSPECT:
        whole = merge(whole, _ask_all(measurement, effort))
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


def _ask_all(measurement: Measurement, effort: Effort) -> Answer:
    return _ask(measurement, list(measurement.weights), WHOLE_TOLERANCE, _seeds(effort, effort.directions))


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
