"""The gradient check of one step: correct, precise, reproducible."""

from __future__ import annotations

import logging
import math
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gradwatch.numerics import agreement
from gradwatch.probes.evaluation import Evaluator, WritesWeightsError
from gradwatch.probes.investigation import SUSPECT, THOROUGH, Answer, Effort, Outcome, investigate
from gradwatch.probes.localise import find_culprit
from gradwatch.probes.measurement import Measurement
from gradwatch.probes.narrow import NarrowWatch
from gradwatch.probes.objectives import LOSS, NoLossError, Objective
from gradwatch.probes.padding import PaddingWatch
from gradwatch.probes.precision import Precision, compare, poor
from gradwatch.probes.random_tape import OtherSequenceError
from gradwatch.probes.reproducibility import first_difference
from gradwatch.probes.samples import few_samples
from gradwatch.records import GradientCheckReport, ParameterCheck
from gradwatch.replica.guard import CommunicationNeeded
from gradwatch.replica.memory import bytes_needed, fits
from gradwatch.replica.once import CannotRepeatError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from gradwatch.records import CheckVerdict, Culprit
    from gradwatch.replica.step_runner import Moment, StepRunner

log = logging.getLogger("gradwatch")

# Random operations whose derivative is no derivative of their result for fixed random numbers: M. Figurnov, S. Mohamed,
# A. Mnih, Implicit Reparameterization Gradients (NeurIPS 2018).
IMPLICIT = frozenset({"standard_gamma", "sample_dirichlet"})

# Beside a copy and a gradient as trained, in their bytes: weights and gradients in float64, and a direction in float32.
WIDENING = 2.5
# A loss that comes out twice, in float64, must be the same but for round-off.
REPEATS = 1e-9


class NotCheckableError(RuntimeError):
    """A reason why nothing can be said."""


class Request(NamedTuple):
    """What to ask of a step.

    ``samples``: how many samples of the batch to use for derivatives; None takes all. ``effort``: along how many
    directions. ``each``: names of tensors to check one by one in any case, None for all. ``blamed``: culprits that are
    known, by tensor, and not looked for again. ``expect_stops``: the step is known to stop gradients on purpose.
    ``first_sample``: which few samples, as a count of those that were used before.
    """

    samples: int | None = None
    effort: Effort = THOROUGH
    each: Collection[str] | None = None
    blamed: Mapping[str, Culprit | None] = MappingProxyType({})
    expect_stops: bool = False
    first_sample: int = 0


class GradientProbe:
    """Checks the gradients of one step of one module.

    Args:
        module: stays as it is, as do random generators and the batch.
        optimizers: what steps it; none will act.
        runner: knows how a step runs.
        moment: the batch and the random states.
        named: the parameters by name.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizers: Sequence[Optimizer],
        runner: StepRunner,
        moment: Moment,
        named: Mapping[str, Tensor],
    ) -> None:
        self._whole_batch = Evaluator(module, optimizers, runner, moment, named)
        self._batch = moment.batch
        self._trains = False  # whether the step has run as it trains
        self._optimizers = list(optimizers)

    def run(self, request: Request) -> GradientCheckReport:
        """Return the report. Whatever hinders the check is its reason, never an error."""
        started = time.perf_counter()
        try:
            report = self._checked(request)
        except CommunicationNeeded as error:
            why = f"the step talks to other ranks ({error}), which one rank alone must not repeat"
            report = not_checkable(why, self._whole_batch.named)
        except (NotCheckableError, NoLossError, CannotRepeatError, WritesWeightsError) as error:
            report = not_checkable(str(error), self._whole_batch.named)
        except Exception as error:  # noqa: BLE001 - the user's step on a copy, in a format that it was not written for
            where = " in float64" if self._trains else ""
            why = f"the step failed on a copy{where} with {type(error).__name__}: {_first_line(error)}"
            report = not_checkable(why, self._whole_batch.named)
        return _with(report, seconds=time.perf_counter() - started)

    def _checked(self, request: Request) -> GradientCheckReport:
        if not self._whole_batch.named:
            raise NotCheckableError("no parameter takes a gradient")
        self._make_sure_of_memory()
        evaluator, trained, samples = self._few_samples(request)
        self._trains = True
        padding = PaddingWatch()
        masks: dict[str, Tensor] = {}
        format_trained = evaluator.precision
        if not any(objective.gradients for objective in trained):
            raise NotCheckableError(
                "no gradient reaches any weight of the module: does the loss use the one it is given?"
            )
        wide, notes = _wide_gradients(evaluator, padding, masks)
        precision = {} if notes else compare(trained, wide)
        del trained  # a gradient takes as much memory as the weights
        _make_sure_of_repetition(evaluator, wide)
        measurement = Measurement(evaluator, wide, evaluator.weights, masks)
        names = list(evaluator.named)
        each = names if request.each is None else [name for name in request.each if name in evaluator.named]
        outcome = investigate(measurement, each, request.effort, expect_stops=request.expect_stops)
        verdict, reason = _verdict(outcome)
        if verdict in SUSPECT:
            _make_sure_of_derivatives(evaluator)
        culprit = _culprit(evaluator, outcome, request.blamed) if verdict == "mismatch" else None
        if verdict == "not_resolvable":  # two gradients that are both round-off have nothing in common
            precision = {}
        if samples is not None and poor(precision, format_trained):
            # Few samples may cancel, as in a normalisation over the batch: before anything is said, ask the whole one.
            precision = compare(self._whole_batch.as_trained(record=True), self._whole_batch.gradients())
        repeated = self._repeated()
        return GradientCheckReport(
            verdict=verdict,
            reason=reason,
            parameters={name: _record(name, outcome, precision, repeated) for name in names},
            culprit=culprit,
            explanations=outcome.explanations,
            terms={name: v for name, v in outcome.whole.by_objective.items() if name != LOSS},
            relative_error=_finite(outcome.whole.worst_slope.error) if outcome.whole.slopes else None,
            h=outcome.whole.worst_slope.ladder if outcome.whole.slopes else {},
            samples=samples,
            precision=format_trained,
            imprecise=poor(precision, format_trained),
            irreproducible=repeated.why,
            notes=notes,
        )

    def _make_sure_of_memory(self) -> None:
        needed = bytes_needed(
            self._whole_batch.module, self._optimizers, with_optimizer_state=False, share_weights=False
        )
        if not fits({device: int(size * WIDENING) for device, size in needed.items()}):
            raise NotCheckableError("memory: a copy in float64 would take more than half of what is free")

    def _few_samples(self, request: Request) -> tuple[Evaluator, list[Objective], int | None]:
        """Return what runs the step on a few samples, or on all where it does not run on few."""
        samples = request.samples
        cut = None if samples is None else few_samples(self._batch, samples, request.first_sample)
        if cut is not None:
            evaluator = self._whole_batch.with_batch(cut)
            try:
                trained = evaluator.as_trained(record=True)
                if trained and all(math.isfinite(objective.value) for objective in trained):
                    self._whole_batch = evaluator.with_batch(self._batch)
                    return evaluator, trained, samples
            except (CommunicationNeeded, CannotRepeatError, WritesWeightsError):
                raise
            except Exception:  # noqa: BLE001, S110 - a step may insist on its batch size
                pass
        trained = self._whole_batch.as_trained(record=True)
        if not trained:
            raise NotCheckableError("the step has returned no loss")
        return self._whole_batch, trained, None

    def _repeated(self) -> Repeated:
        """Run the step as it trains, twice."""
        first, second = self._whole_batch.as_trained(), self._whole_batch.as_trained()
        differences: dict[str, float] = {}
        for one, other in zip(first, second, strict=False):
            for name in one.gradients.keys() | other.gradients.keys():
                difference = _difference(one.gradients.get(name), other.gradients.get(name))
                differences[name] = max(differences.get(name, 0.0), difference)
        same = not any(differences.values())
        return Repeated(differences, None if same else first_difference(self._whole_batch))


class Repeated(NamedTuple):
    """How far apart two gradients of the same step are, by parameter, and why."""

    differences: Mapping[str, float] = {}
    why: str | None = None


def not_checkable(reason: str, names: Collection[str]) -> GradientCheckReport:
    """Return the report of a check that cannot be made."""
    parameters = {name: ParameterCheck(correct="not_checkable") for name in names}
    return GradientCheckReport(verdict="not_checkable", reason=reason, parameters=parameters)


def _wide_gradients(
    evaluator: Evaluator, padding: PaddingWatch, masks: dict[str, Tensor]
) -> tuple[list[Objective], list[str]]:
    """Return the objectives in float64; if the step draws otherwise there, with random numbers of its own."""
    copies: dict[str, Tensor] = {}

    def learn(copy: Any) -> None:
        copies.update({name: copy.parameter_of(parameter) for name, parameter in evaluator.named.items()})

    notes: list[str] = []
    try:
        wide = evaluator.gradients(None, padding, prepare=learn)
    except OtherSequenceError:
        evaluator.forget_random_numbers()
        notes.append("precision was not compared: in float64 the step draws other random numbers")
        wide = evaluator.gradients(None, padding, prepare=learn)
    masks.update(padding.masks(copies))
    return wide, notes


def _make_sure_of_repetition(evaluator: Evaluator, wide: Sequence[Objective]) -> None:
    again = evaluator.values(len(wide))
    for objective, value in zip(wide, again, strict=False):
        if not math.isfinite(objective.value):
            raise NotCheckableError(f"the {objective.name} is {objective.value}")
        if abs(value - objective.value) > REPEATS * max(abs(objective.value), abs(value)):
            raise NotCheckableError(
                f"the step does not repeat: the same batch, weights and random states gave a {objective.name} of"
                f" {objective.value:.9g} and then of {value:.9g}. It has side effects outside of the module, or draws"
                " from a source that cannot be rewound"
            )
    if len(again) != len(wide):
        raise NotCheckableError("the step does not repeat: it backpropagated another number of losses")


def _culprit(evaluator: Evaluator, outcome: Outcome, blamed: Mapping[str, Culprit | None]) -> Culprit | None:
    wrong = [name for name, answer in outcome.tensors.items() if answer.verdict == "mismatch"]
    if wrong and all(name in blamed for name in wrong):
        return blamed[wrong[0]]
    try:
        return find_culprit(evaluator)
    except Exception:
        log.debug("gradwatch: the culprit could not be looked for", exc_info=True)
        return None


def _make_sure_of_derivatives(evaluator: Evaluator) -> None:
    """Before a backward is called wrong: is all of the step in float64, and are samples differentiated as such."""
    implicit = sorted(evaluator.drawn & IMPLICIT)
    if implicit:
        raise NotCheckableError(
            f"the step draws by {' and '.join(implicit)}, whose samples are differentiated implicitly, not as a"
            " function of fixed random numbers"
        )
    watch = NarrowWatch()
    evaluator.gradients(None, watch)
    if watch.found is not None:
        raise NotCheckableError(
            f"part of the step computes in a narrower format than float64, whatever is asked: {watch.found}"
        )


def _verdict(outcome: Outcome) -> tuple[CheckVerdict, str]:
    verdicts = {name: answer.verdict for name, answer in outcome.tensors.items()}
    wrong = [name for name, verdict in verdicts.items() if verdict == "mismatch"]
    whole = outcome.whole.verdict
    if wrong or whole == "mismatch":
        return "mismatch", f"autograd and finite differences disagree for {_listed(wrong) or 'all weights together'}"
    explained = [name for name, verdict in verdicts.items() if verdict == "explained"]
    if explained or whole == "explained":
        return "explained", f"gradients are stopped or changed on purpose: {_listed(explained) or 'all weights'}"
    return whole, _REASONS[whole]


_REASONS: dict[CheckVerdict, str] = {
    "pass": "autograd and finite differences agree",
    "kink": "the loss has a kink here in every direction that was tried: a derivative is not defined",
    "not_resolvable": "the loss changes too little along the weights to be told from its round-off",
    "not_checkable": "the loss is not finite at weights close by",
}


def _record(name: str, outcome: Outcome, precision: Mapping[str, Precision], repeated: Repeated) -> ParameterCheck:
    answer: Answer | None = outcome.tensors.get(name)
    precise = precision.get(name)
    difference = repeated.differences.get(name)
    known = {
        "precision_error": precise.error if precise else None,
        "cosine": precise.cosine if precise else None,
        "reproducible": None if difference is None else difference == 0,
        "difference": difference,
    }
    if answer is None or not answer.slopes:
        # After a mismatch, a tensor that was not asked has not been told from those that are wrong.
        unasked: CheckVerdict = "not_resolvable" if outcome.whole.verdict in SUSPECT else outcome.whole.verdict
        return ParameterCheck(correct=answer.verdict if answer else unasked, **known)  # type: ignore[arg-type]
    slopes = [slope for slope in answer.slopes if slope.rungs]
    products = sum((s.autograd - s.numeric) ** 2 for s in slopes) ** 0.5
    norms = sum(s.autograd**2 for s in slopes) ** 0.5 + sum(s.numeric**2 for s in slopes) ** 0.5
    return ParameterCheck(
        correct=answer.verdict,
        relative_error=_finite(answer.worst_slope.error),
        norm_error=products / norms if norms else 0.0,
        sign_agrees=all(s.autograd * s.numeric >= 0 or abs(s.numeric) < s.tolerance * s.scale for s in slopes),
        h=answer.worst_slope.ladder,
        **known,  # type: ignore[arg-type]
    )


def _difference(one: Tensor | None, other: Tensor | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    if torch.equal(one.to_dense(), other.to_dense()):
        return 0.0
    error = float(agreement(one, other).error)
    return error if error > 0 else math.inf


def _with(report: GradientCheckReport, **changes: Any) -> GradientCheckReport:
    return GradientCheckReport(**{**vars(report), **changes})


def _listed(names: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
