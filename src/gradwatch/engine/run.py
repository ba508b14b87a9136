"""One run under watch: the parts of the engine that live as long as it does, and what it says of itself."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from gradwatch.capture.window import StepWindow
from gradwatch.engine.clip_rule import resolve_clip_rule
from gradwatch.engine.closer_look import CloserLook
from gradwatch.engine.flight_recorder import FlightRecorder
from gradwatch.engine.gradient_checks import GradientChecks
from gradwatch.engine.health_rules import HealthRules
from gradwatch.engine.recorder import Recorder
from gradwatch.engine.reporter import Reporter
from gradwatch.engine.response import Responder
from gradwatch.engine.run_events import event_header, run_end, run_start, start_warnings
from gradwatch.engine.step_judge import StepJudge
from gradwatch.engine.watched import Watched
from gradwatch.sinks.tags import gradient_check_metrics, health_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from torch.optim import Optimizer

    from gradwatch.diagnosis.anomaly import AnomalyMode
    from gradwatch.engine.context import RunContext
    from gradwatch.engine.counters import Counters
    from gradwatch.engine.recorder import Header
    from gradwatch.engine.recording import Position
    from gradwatch.engine.settings import Settings
    from gradwatch.records import RunStatus

log = logging.getLogger("gradwatch")


class Run:
    """What watches one run, put together.

    Args:
        settings: the user's.
        context: the loop's setting.
        module: its parameters, buffers and layer names are watched.
        optimizers: all that step its parameters.
        counters: are counted on.
        anomaly: is switched on after an incident.
        run_id: the name of the run.
        memory: of the health rules, from the run that this one continues.

    Attributes:
        announced: whether ``run_start`` has been written.
        header: returns what every event at a position has.
        window: the micro-batches whose gradients the next step will use.
    """

    def __init__(
        self,
        settings: Settings,
        context: RunContext,
        module: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        counters: Counters,
        anomaly: AnomalyMode,
        run_id: str,
        memory: dict[str, Any],
    ) -> None:
        self._settings, self._counters, self._run_id = settings, counters, run_id
        self.context, self.announced = context, False
        self.header: Header = partial(event_header, rank=context.rank)
        self.window: StepWindow[Position] = StepWindow()
        self.watched = Watched(module, optimizers, settings.granularity)
        flight = FlightRecorder(self.watched, context.rank)
        self.reporter = Reporter(
            context,
            flight=flight,
            layer_scalars=settings.layer_scalars,
            max_incident_bytes=settings.max_incident_bytes,
        )
        self.responder = Responder(settings, context, self.watched, self.reporter, counters, anomaly)
        fp16 = context.compute_format(module.parameters()) == "fp16"
        self.look = CloserLook(settings.granularity, fp16=fp16)
        self.clip_rule = resolve_clip_rule(settings.clip, module, context)
        max_norm = self.clip_rule.max_norm
        self.rules = HealthRules(settings.detectors, context, self.watched, self.look, self.reporter, max_norm=max_norm)
        self.rules.load_state_dict(memory)
        self.recorder = Recorder(self.watched, counters, self.reporter, self.rules, flight, self.header)
        self.judge = StepJudge(
            context,
            self.watched,
            self.window,
            counters=counters,
            look=self.look,
            rules=self.rules,
            recorder=self.recorder,
            responder=self.responder,
            max_norm=max_norm,
            header=self.header,
        )
        self.checks = GradientChecks(settings, context, self.watched, self.reporter, self.rules.read)

    def announce(self, position: Position, resumed_from: str | None) -> None:
        """Write ``run_start`` and take what is non-finite now as given."""
        self.announced = True
        self.watched.regroup()
        event = run_start(
            self.header(position),
            self.watched,
            self.context,
            self._settings,
            run_id=self._run_id,
            resumed_from=resumed_from,
            steps_before=self._counters.steps,
            clip=self.clip_rule,
        )
        self.reporter.start(event)
        for warning in start_warnings(self.watched, self._settings, event):
            log.warning("%s", warning)

    def end(self, position: Position, status: RunStatus, reason: str | None) -> None:
        """Write what waits and ``run_end``, and close the files."""
        self.look.end_step()
        try:
            self.recorder.flush()
        finally:  # after a device error nothing can be measured any more, but the end can still be written
            event = run_end(self.header(position), self._run_id, status, reason, self._counters)
            self.reporter.end(event, self._counters.clip_rate)

    def health(self) -> dict[str, float]:
        """Return the ``health/*`` values of each optimizer's last step by tag."""
        metrics: dict[str, float] = {}
        for index, history in enumerate(self.watched.histories):
            if history.rows:
                metrics |= health_values(
                    optimizer=index,
                    grad_norm=history.rows[-1].grad_norm,
                    coefficient=history.rows[-1].coefficient,
                    clip_rate=self._counters.clip_rate,
                    nonfinite_steps=self._counters.nonfinite,
                    skipped_steps=self._counters.skipped,
                    loss_scale=self.judge.loss_scale,
                )
        return metrics | gradient_check_metrics([self.checks.worst_error])
