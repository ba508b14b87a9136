"""What follows a non-finite value: the update is dropped, the cause looked for, the incident written, the run ended."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from gradwatch.capture.rollback import evaluates_again
from gradwatch.capture.scaling import leave_to_scaler
from gradwatch.diagnosis.dynamics import growth
from gradwatch.diagnosis.evidence import Evidence
from gradwatch.engine.evidence_gathering import evidence_of_batch, evidence_of_state, evidence_of_step
from gradwatch.engine.failure import Failure
from gradwatch.engine.incident_bundle import bundle_of
from gradwatch.engine.incidents import build_incident
from gradwatch.engine.policy import Decision, decide, decide_on_state
from gradwatch.engine.replay import Replayer
from gradwatch.engine.reporter import MAX_INCIDENTS
from gradwatch.errors import NonFiniteError
from gradwatch.replica.step_runner import Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gradwatch.capture.gradients import Gradients
    from gradwatch.capture.history import History
    from gradwatch.capture.parameters import ParameterGroup
    from gradwatch.capture.state_scan import Birth
    from gradwatch.capture.window import MicroBatch, StepWindow
    from gradwatch.diagnosis.anomaly import AnomalyMode
    from gradwatch.diagnosis.dynamics import Growth
    from gradwatch.diagnosis.verdict import Traced
    from gradwatch.engine.context import RunContext
    from gradwatch.engine.counters import Counters
    from gradwatch.engine.recording import Position
    from gradwatch.engine.reporter import Reporter
    from gradwatch.engine.settings import Settings
    from gradwatch.engine.watched import Watched
    from gradwatch.replica.bundle import Bundle

log = logging.getLogger("gradwatch")


class BadStep(NamedTuple):
    """A step whose loss or gradients are not finite.

    ``steps_before``: how many optimizer steps its batch had already made; ``loss_scale``: None without a GradScaler.
    """

    group: ParameterGroup
    gradients: Gradients
    window: StepWindow[Position]
    position: Position
    steps_before: int
    loss_scale: float | None


class Responder:
    """Acts on bad steps as ``on_nonfinite`` says, and tells what was found.

    ``stop_requested`` is set once the run is to end gracefully; the loop looks at it.
    """

    def __init__(  # noqa: PLR0917 - the parts of the engine that take part in an incident
        self,
        settings: Settings,
        context: RunContext,
        watched: Watched,
        reporter: Reporter,
        counters: Counters,
        anomaly: AnomalyMode,
    ) -> None:
        self._settings, self._context, self._watched = settings, context, watched
        self._reporter, self._counters, self._anomaly = reporter, counters, anomaly
        self.stop_requested = False
        self._skips_in_a_row: dict[int, int] = {}
        self._bad_in_a_row = 0
        self._reported: Position | None = None

    def note_good_step(self, group: ParameterGroup) -> None:
        """End the streak of skipped and of bad steps."""
        self._skips_in_a_row[group.index] = self._bad_in_a_row = 0

    def decide(self, group: ParameterGroup) -> Decision:
        """Return what to do about a bad step of this optimizer."""
        self._bad_in_a_row += 1
        skips = self._skips_in_a_row.get(group.index, 0)
        decision = decide(
            self._settings.on_nonfinite,
            skips_in_a_row=skips,
            max_skips=self._settings.max_skips,
            can_skip=not evaluates_again(group.optimizer),
        )
        self._skips_in_a_row[group.index] = skips + decision.drop
        return decision

    def drop(self, group: ParameterGroup, gradients: Gradients, micro_batch: int) -> None:
        """Keep the update from happening, and take back what the batches have done to the buffers.

        Gradients go to None: with zeroed ones AdamW would still move the weights. Under a GradScaler they stay, since
        the scaler itself skips the step.
        """
        scaler, optimizer = self._context.scaler, group.optimizer
        if scaler is None or not leave_to_scaler(scaler, optimizer, gradients.tensors, finite=gradients.finite):
            for parameter in group.parameters:
                parameter.grad = None
        self._watched.buffers.restore(micro_batch)

    def report_step(self, decision: Decision, bad: BadStep) -> None:
        """Tell what was found at a bad step.

        A run that goes on with spoilt weights is bad at every step: one message for the streak, the rest is counted.
        """
        if not (decision.raises or decision.action == "skipped" or self._bad_in_a_row == 1):
            return
        evidence, position, failure = Evidence(), bad.position, None
        try:
            evidence, position, failure = self._investigate(bad)
        except Exception as error:  # noqa: BLE001 - the other ranks wait in the report
            log.warning("gradwatch could not look for the cause: %s: %s", type(error).__name__, error)
        self._report(evidence, decision, position, batch=bad.window.micro_batches[-1].position, failure=failure)

    def _investigate(self, bad: BadStep) -> tuple[Evidence, Position, Failure]:
        """Return what was found, where the value was born, and the step that was run again to know."""
        guilty = bad.window.first_bad()
        step, history = bad.position.step, self._watched.histories[bad.group.index]
        evidence = self._evidence(bad, guilty)
        failure = self._failure(bad, guilty)._replace(born=frozenset(evidence.parameters + evidence.buffers))
        traced = self._trace(bad, failure)
        last = bad.window.micro_batches[-1]
        if guilty is not last and self._context.world_size == 1 and traced is not None and traced.came_out_finite:
            # A norm in float32 overflows before its elements do: it is their sum over the window that is bad.
            whole = self._failure(bad, last)._replace(born=failure.born)
            found = self._trace(bad, whole)
            if found is not None and found.root is not None:
                guilty, failure, traced = last, whole, found
        finite_at, self._watched.scanned_at = self._watched.scanned_at, step
        evidence = replace(evidence, traced=traced, growth=_growth_before(step, history), finite_at=finite_at)
        return evidence, self._birth(evidence, guilty.position._replace(step=step), before=step), failure

    def report_state(self, births: Sequence[Birth], position: Position, *, together: bool) -> None:
        """Tell what a scan has found; ``together``: all ranks are here.

        Under ``warn`` a bad step reaches the state: that follows from an incident, and is none of its own.
        """
        if self._bad_in_a_row and self._settings.on_nonfinite == "warn":
            return
        evidence = evidence_of_state(births, self._watched.groups, self._watched.histories)
        grown = [_growth_before(position.step + 1, history) for history in self._watched.histories]
        evidence = replace(evidence, growth=next(filter(None, grown), None), finite_at=self._watched.scanned_at)
        decision = decide_on_state(self._settings.on_nonfinite)
        self._report(evidence, decision, self._birth(evidence, position), batch=None, together=together)

    def persists_unscaled(self, bad: BadStep) -> bool:
        """Whether an overflow under a GradScaler is none of its doing: the gradients are bad without it too.

        All ranks come here together, and leave with the same answer.
        """
        bad = bad._replace(loss_scale=1.0)
        replayer, failure = self._replayer(), self._failure(bad, bad.window.first_bad())
        traced = None if replayer is None else replayer.check(failure)
        if self._all_communicate(traced):
            traced = self._run_together(bad, failure, trace=False)
        return bool(self._context.agree(int(traced is not None and traced.is_bad)))

    def _trace(self, bad: BadStep, failure: Failure) -> Traced | None:
        """Run the step again; all ranks come here together, and leave together."""
        replayer = self._replayer()
        traced = None if replayer is None else replayer.trace(failure)
        return self._run_together(bad, failure) if self._all_communicate(traced) else traced

    def _all_communicate(self, traced: Traced | None) -> bool:
        """Whether no rank could run the step again without the others, and each could with them."""
        alone = traced is None or not traced.communicates
        return self._context.world_size > 1 and not self._context.agree(int(alone))

    def _run_together(self, bad: BadStep, failure: Failure, *, trace: bool = True) -> Traced | None:
        replayer, whole = self._replayer(), self._failure(bad, bad.window.micro_batches[-1])
        whole = whole._replace(born=failure.born, guilty=len(failure.moments) - 1 if trace else -1)
        return None if replayer is None else replayer.run_together(whole, self._context.agree, trace=trace)

    def _born_on(self, evidence: Evidence) -> list[int]:
        """Return the ranks of the birth: where it is certain, else those that no replay has cleared."""
        highest = self._context.agree(evidence.suspicion)
        return self._context.ranks_where(0 < evidence.suspicion == highest)

    def _bundle_maker(self, failure: Failure | None) -> Callable[[], Bundle] | None:
        runner, watched = self._context.runner, self._watched
        if failure is None or runner is None:
            return None
        return lambda: bundle_of(watched.module, watched.optimizers, failure, runner)

    def _replayer(self) -> Replayer | None:
        runner = self._context.runner
        if runner is None or self._counters.incidents >= MAX_INCIDENTS:
            return None
        return Replayer(self._watched.module, self._watched.optimizers, runner)

    def _failure(self, bad: BadStep, guilty: MicroBatch[Position]) -> Failure:
        is_last = guilty is bad.window.micro_batches[-1]
        return Failure(
            self._moments(bad.window, guilty),
            bad.group.index,
            steps_before=bad.steps_before if is_last else 0,
            with_step=is_last,
            loss_scale=bad.loss_scale or 1.0,
        )

    def _moments(self, window: StepWindow[Position], last: MicroBatch[Position]) -> list[Moment]:
        return [
            Moment(
                m.batch,
                m.position.batch_idx or 0,
                m.random_state,
                self._watched.buffers.before(m.index),
                _changed(m.attributes, vars(self._watched.module)),
            )
            for m in window.micro_batches[: last.index + 1]
        ]

    def _evidence(self, bad: BadStep, guilty: MicroBatch[Position]) -> Evidence:
        """Look at everything that was kept; what cannot be looked at leaves losses and gradients as evidence."""
        scanner, before = self._watched.scanner, Evidence()
        try:
            births = scanner.scan(self._watched.buffers.before(guilty.index))
            births += scanner.persisting(births)
            before = evidence_of_state(births, self._watched.groups, self._watched.histories)
            before = replace(before, batch=evidence_of_batch(guilty.batch))
        except Exception as error:  # noqa: BLE001 - the incident matters more than its details
            log.warning("gradwatch could not look for the cause: %s: %s", type(error).__name__, error)
        return evidence_of_step(bad.group, bad.gradients, bad.window, before)

    def _birth(self, evidence: Evidence, position: Position, *, before: int | None = None) -> Position:
        """A value that an optimizer made was born at its own last step, before the batch that shows it."""
        last_steps = [
            rows[-1]
            for group, history in zip(self._watched.groups, self._watched.histories, strict=True)
            if _holds(group, evidence.optimizer)
            and (rows := [row for row in history.rows if before is None or row.step < before])
        ]
        if not last_steps:
            return position
        born = min(last_steps, key=lambda row: row.step)
        return position._replace(step=born.step, epoch=born.epoch, batch_idx=born.batch_idx)

    def _report(
        self,
        evidence: Evidence,
        decision: Decision,
        position: Position,
        *,
        batch: Position | None,
        failure: Failure | None = None,
        together: bool = True,
    ) -> None:
        """Write the incident and end the run if that was decided: one incident a batch, whatever follows from it."""
        self.stop_requested |= decision.stops
        self._anomaly.arm(self._settings.anomaly_steps)
        ranks = self._born_on(evidence) if together else [self._context.rank]
        # The very batch: a loop that does not tell its epoch reaches an equal position in each.
        if batch is not None and batch is self._reported and not decision.raises:
            return
        self._reported = batch
        self._counters.incidents += 1
        incident = build_incident(evidence, decision, position, self._context, ranks)
        message = self._reporter.incident(incident, self._bundle_maker(failure) if incident.rank in ranks else None)
        if decision.raises:
            self._anomaly.end_batch()  # a hand-written loop may not come to the end of its batch
            raise NonFiniteError(message, incident)
        log.warning("%s", message)


def _changed(before: Mapping[str, object], now: Mapping[str, object]) -> dict[str, object]:
    """Return the numbers and tensors that a module had as attributes and has given up for others."""
    kinds = (bool, int, float, Tensor)
    return {name: old for name, old in before.items() if isinstance(old, kinds) and now.get(name) is not old}


def _growth_before(step: int, history: History) -> Growth | None:
    rows = [row for row in history.rows if row.step < step]
    return growth([row.step for row in rows], [row.loss for row in rows], [row.grad_norm for row in rows])


def _holds(group: ParameterGroup, names: Sequence[str]) -> bool:
    """Whether one of ``names`` is a parameter of the group, or optimizer state of one."""
    return any(name == known or name.startswith(f"{known}.") for name in names for known in group.names)
