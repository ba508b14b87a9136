"""What follows a non-finite value: the update is dropped, the cause looked for, the incident written, the run ended."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gradwatch.capture.rollback import evaluates_again
from gradwatch.capture.scaling import leave_to_scaler
from gradwatch.diagnosis.evidence import Evidence
from gradwatch.engine.evidence_gathering import evidence_of_batch, evidence_of_state, evidence_of_step
from gradwatch.engine.incidents import build_incident
from gradwatch.engine.policy import Decision, decide, decide_on_state
from gradwatch.errors import NonFiniteError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.capture.gradients import Gradients
    from gradwatch.capture.parameters import ParameterGroup
    from gradwatch.capture.state_scan import Birth
    from gradwatch.capture.window import MicroBatch, StepWindow
    from gradwatch.diagnosis.anomaly import AnomalyMode
    from gradwatch.engine.context import RunContext
    from gradwatch.engine.counters import Counters
    from gradwatch.engine.recording import Position
    from gradwatch.engine.reporter import Reporter
    from gradwatch.engine.settings import Settings
    from gradwatch.engine.watched import Watched

log = logging.getLogger("gradwatch")


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

    def report_step(
        self,
        decision: Decision,
        group: ParameterGroup,
        gradients: Gradients,
        window: StepWindow[Position],
        position: Position,
    ) -> None:
        """Tell what was found at a bad step.

        A run that goes on with spoilt weights is bad at every step: one message for the streak, the rest is counted.
        """
        guilty = window.first_bad()
        evidence = self._evidence(group, gradients, window, guilty)
        position = self._birth(evidence, guilty.position._replace(step=position.step), before=position.step)
        if decision.raises or decision.action == "skipped" or self._bad_in_a_row == 1:
            self._report(evidence, decision, position, batch=window.micro_batches[-1].position)

    def report_state(self, births: Sequence[Birth], position: Position, *, together: bool) -> None:
        """Tell what a scan has found; ``together``: all ranks are here.

        Under ``warn`` a bad step reaches the state: that follows from an incident, and is none of its own.
        """
        if self._bad_in_a_row and self._settings.on_nonfinite == "warn":
            return
        evidence = evidence_of_state(births, self._watched.groups, self._watched.histories)
        decision = decide_on_state(self._settings.on_nonfinite)
        self._report(evidence, decision, self._birth(evidence, position), batch=None, together=together)

    def _evidence(
        self,
        group: ParameterGroup,
        gradients: Gradients,
        window: StepWindow[Position],
        guilty: MicroBatch[Position],
    ) -> Evidence:
        """Look at everything that was kept; what cannot be looked at leaves losses and gradients as evidence."""
        scanner, state, batch = self._watched.scanner, Evidence(), []
        try:
            births = scanner.scan(self._watched.buffers.before(guilty.index))
            births += scanner.persisting(births)
            state = evidence_of_state(births, self._watched.groups, self._watched.histories)
            batch = evidence_of_batch(guilty.batch)
        except Exception as error:  # noqa: BLE001 - the incident matters more than its details
            log.warning("gradwatch could not look for the cause: %s: %s", type(error).__name__, error)
        return evidence_of_step(group, gradients, window, state, batch)

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
        together: bool = True,
    ) -> None:
        """Write the incident and end the run if that was decided: one incident a batch, whatever follows from it."""
        self.stop_requested |= decision.stops
        self._anomaly.arm(self._settings.anomaly_steps)
        ranks = self._context.ranks_where(evidence.is_local) if together else [self._context.rank]
        # The very batch: a loop that does not tell its epoch reaches an equal position in each.
        if batch is not None and batch is self._reported and not decision.raises:
            return
        self._reported = batch
        self._counters.incidents += 1
        incident = build_incident(evidence, decision, position, self._context, ranks)
        message = self._reporter.incident(incident)
        if decision.raises:
            self._anomaly.end_batch()  # a hand-written loop may not come to the end of its batch
            raise NonFiniteError(message, incident)
        log.warning("%s", message)


def _holds(group: ParameterGroup, names: Sequence[str]) -> bool:
    """Whether one of ``names`` is a parameter of the group, or optimizer state of one."""
    return any(name == known or name.startswith(f"{known}.") for name in names for known in group.names)
