"""The gradient check of one step: correct, precise, reproducible."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from gradwatch.probes.conditions import (
    NotCheckableError,
    make_sure_of_derivatives,
    make_sure_of_finiteness,
    make_sure_of_gradients,
    make_sure_of_memory,
    make_sure_of_repetition,
)
from gradwatch.probes.evaluation import Evaluator, WritesWeightsError
from gradwatch.probes.investigation import SUSPECT, THOROUGH, Effort, Outcome, investigate
from gradwatch.probes.localise import find_culprit
from gradwatch.probes.measurement import Measurement
from gradwatch.probes.objectives import NoLossError, Objective
from gradwatch.probes.padding import PaddingWatch
from gradwatch.probes.precision import Precision, compare, poor
from gradwatch.probes.random_tape import OtherSequenceError
from gradwatch.probes.report import not_checkable, of_correctness, of_parameter, verdict_of
from gradwatch.probes.reproducibility import run_twice
from gradwatch.probes.samples import few_samples
from gradwatch.records import GradientCheckReport
from gradwatch.replica.guard import CommunicationNeeded
from gradwatch.replica.once import CannotRepeatError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from gradwatch.records import Culprit
    from gradwatch.replica.copying import SideCopy
    from gradwatch.replica.step_runner import Moment, StepRunner

log = logging.getLogger("gradwatch")


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
        return dataclasses.replace(report, seconds=time.perf_counter() - started)

    def _checked(self, request: Request) -> GradientCheckReport:
        if not self._whole_batch.named:
            raise NotCheckableError("no parameter takes a gradient")
        make_sure_of_memory(self._whole_batch.module, self._optimizers)
        evaluator, trained, samples = self._few_samples(request)
        make_sure_of_gradients(trained)
        format_trained = evaluator.precision
        measurement, notes = _measurement(evaluator)
        precision = {} if notes else compare(trained, measurement.objectives)
        del trained  # a gradient takes as much memory as the weights
        make_sure_of_finiteness(measurement.objectives)
        outcome, culprit = _correctness(measurement, request)
        precision = self._confirmed(precision, format_trained, samples) if outcome.is_resolved else {}
        repeated = run_twice(self._whole_batch)
        return GradientCheckReport(
            **of_correctness(outcome),
            parameters={name: of_parameter(name, outcome, precision, repeated) for name in evaluator.named},
            culprit=culprit,
            samples=samples,
            precision=format_trained,
            imprecise=poor(precision, format_trained),
            irreproducible=repeated.why,
            notes=notes,
        )

    def _confirmed(
        self, precision: dict[str, Precision], format_trained: str | None, samples: int | None
    ) -> dict[str, Precision]:
        """Ask the whole batch before anything is said: few samples may cancel, as in a normalisation over the batch."""
        if samples is None or not poor(precision, format_trained):
            return precision
        return compare(self._whole_batch.as_trained(record=True), self._whole_batch.gradients())

    def _few_samples(self, request: Request) -> tuple[Evaluator, list[Objective], int | None]:
        """Return what runs the step on a few samples, or on all where it does not run on few."""
        samples = request.samples
        cut = None if samples is None else few_samples(self._batch, samples, request.first_sample)
        if cut is not None:
            evaluator = self._whole_batch.with_batch(cut)
            try:
                trained = evaluator.as_trained(record=True)
                if trained and all(math.isfinite(objective.value) for objective in trained):
                    self._whole_batch, self._trains = evaluator.with_batch(self._batch), True
                    return evaluator, trained, samples
            except (CommunicationNeeded, CannotRepeatError, WritesWeightsError):
                raise
            except Exception:  # noqa: BLE001, S110 - a step may insist on its batch size
                pass
        trained = self._whole_batch.as_trained(record=True)
        self._trains = True
        return self._whole_batch, trained, None


def _measurement(evaluator: Evaluator) -> tuple[Measurement, list[str]]:
    """Return what autograd says in float64; where the step draws otherwise there, with random numbers of its own."""
    copies: dict[str, Tensor] = {}
    padding = PaddingWatch()

    def learn(copy: SideCopy) -> None:
        copies.update({name: copy.parameter_of(parameter) for name, parameter in evaluator.named.items()})

    notes: list[str] = []
    try:
        wide = evaluator.gradients(None, padding, prepare=learn)
    except OtherSequenceError:
        evaluator.forget_random_numbers()
        notes.append("precision was not compared: in float64 the step draws other random numbers")
        wide = evaluator.gradients(None, padding, prepare=learn)
    return Measurement(evaluator, wide, evaluator.weights, padding.masks(copies)), notes


def _correctness(measurement: Measurement, request: Request) -> tuple[Outcome, Culprit | None]:
    """Compare with finite differences; where a backward is wrong, find out whose."""
    named = measurement.evaluator.named
    each = named if request.each is None else [name for name in request.each if name in named]
    outcome = investigate(
        measurement,
        each,
        request.effort,
        expect_stops=request.expect_stops,
        tell_apart=not request.blamed,
        # What agrees with its differences has come out the same each time.
        in_doubt=functools.partial(make_sure_of_repetition, measurement.evaluator, measurement.objectives),
    )
    verdict, _ = verdict_of(outcome)
    if verdict in SUSPECT:
        make_sure_of_derivatives(measurement.evaluator)
    return outcome, _culprit(measurement.evaluator, outcome, request.blamed) if verdict == "mismatch" else None


def _culprit(evaluator: Evaluator, outcome: Outcome, blamed: Mapping[str, Culprit | None]) -> Culprit | None:
    wrong = [name for name, answer in outcome.tensors.items() if answer.verdict == "mismatch"]
    if blamed and all(name in blamed for name in wrong):
        return blamed[wrong[0]] if wrong else next(iter(blamed.values()))
    try:
        return find_culprit(evaluator)
    except Exception:
        log.debug("gradwatch: the culprit could not be looked for", exc_info=True)
        return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
