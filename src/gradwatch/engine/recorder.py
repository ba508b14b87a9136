"""Writing it down: counters and histories at every step; a record, and what the rules make of it, on log steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gradwatch.capture.history import Source, StepRow
from gradwatch.capture.window import LossMeter
from gradwatch.engine.recording import PendingRecord, TakenStep, Totals, begin_record, spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from gradwatch.capture.gradients import Gradients
    from gradwatch.capture.history import History
    from gradwatch.capture.parameters import ParameterGroup
    from gradwatch.engine.counters import Counters
    from gradwatch.engine.flight_recorder import FlightRecorder
    from gradwatch.engine.health_rules import HealthRules
    from gradwatch.engine.recording import Position
    from gradwatch.engine.reporter import Reporter
    from gradwatch.engine.watched import Watched

    Header = Callable[[Position], dict[str, Any]]


class Recorder:
    """Remembers each optimizer step, and turns those on log steps into records.

    Args:
        watched: whose histories are kept.
        counters: are counted on.
        reporter: gets the records.
        rules: read them.
        flight: keeps each step beyond the death of the process.
        header: returns what every event at a position has.
    """

    def __init__(  # noqa: PLR0917 - the parts of the engine that take part in a record
        self,
        watched: Watched,
        counters: Counters,
        reporter: Reporter,
        rules: HealthRules,
        flight: FlightRecorder,
        header: Header,
    ) -> None:
        self._watched, self._counters, self._reporter = watched, counters, reporter
        self._rules, self._flight, self._header = rules, flight, header
        self._losses = LossMeter(len(watched.groups))
        self._pending: dict[int, PendingRecord] = {}
        self._on_time: set[int] = set()
        self._late: set[int] = set()

    def add_losses(self, losses: list[float]) -> None:
        """Add losses that have reached the host."""
        self._losses.add(losses)

    def remember(self, step: TakenStep, *, max_norm: float | None, log: bool, again: bool = False) -> None:
        """Add a step to counters and history, and begin its record if it is to be logged.

        Args:
            step: as it was judged.
            max_norm: the limit of the clip rule.
            log: whether this is a log step; an optimizer whose turn did not fall on the last one is late with it.
            again: the step has been counted as a good one, and was spoilt after that.
        """
        group, gradients = step.group, step.gradients
        if log:
            self._on_time.add(group.index)  # whatever becomes of its record: all ranks must agree on who is late
        history = self._watched.histories[group.index]
        loss = history.rows[-1].loss if again and history.rows else self._losses.take(group.index)
        clipped = step.coefficient < 1.0
        self._counters.count(clipped=clipped, skipped=step.skipped, nonfinite=step.nonfinite, again=again)
        row = StepRow(
            *step.position[:3],
            loss,
            gradients.total,
            step.coefficient,
            _rates(group.optimizer),
            step.loss_scale,
            step.batch_size,
            step.skipped,
        )
        source = _source(group, gradients, history)
        history.add(row, spread(group, gradients), source, nonfinite=step.nonfinite, again=again)
        self._flight.add(group.index)
        if log or group.index in self._late:
            self._late.discard(group.index)
            totals = Totals(self._counters.skipped, self._counters.nonfinite, self._counters.clip_rate)
            record = begin_record(step, history, loss=loss, max_norm=max_norm, totals=totals, fp16=self._rules.fp16)
            begun = self._pending.get(group.index) if again else None
            self._pending[group.index] = record if begun is None else record.instead_of(begun)

    def end_log_step(self) -> None:
        """Note the optimizers that have stepped since their last record and did not do so at this log step.

        Two that take turns, batch by batch, meet log steps with one of them only.
        """
        waiting = {index for index, history in enumerate(self._watched.histories) if history.steps}
        self._late = waiting - self._on_time
        self._on_time.clear()

    def waits(self, optimizer: int | None = None) -> bool:
        """Whether a record waits for its optimizer to act; for any, if none is given."""
        return bool(self._pending) if optimizer is None else optimizer in self._pending

    def clipped_to(self, optimizer: int, total: float) -> None:
        """Note the total norm that clipping by the loop itself has left."""
        self._pending[optimizer] = self._pending[optimizer].clipped_to(total)

    def finish(self, optimizer: int) -> None:
        """Write the record of an optimizer that has acted."""
        pending = self._pending.pop(optimizer)
        header = self._header(pending.step.position)
        layers = pending.measure(at_start=self._rules.at_start)
        if np.isfinite(layers.weight_norm).all() and np.isfinite(layers.update_ratio).all():
            self._watched.scanner.found_finite(pending.step.group.parameters)
        else:
            self._watched.scanner.forget_finite()
        self._reporter.write(pending.record(header, layers))
        self._rules.read_step(pending, layers, header)

    def rest(self) -> None:
        """Leave nothing unwritten: the run may not come back to its next step soon."""
        self._flight.flush()

    def flush(self) -> None:
        """Write the records whose optimizer has not acted: the GradScaler skipped it, or it never came to it."""
        while self._pending:
            self.finish(next(iter(self._pending)))


def _source(group: ParameterGroup, gradients: Gradients, history: History) -> Source:
    """Return whose norms those of a step are: nearly always the same object as for the step before."""
    if len(gradients.positions) < len(group.parameters):
        return Source(group, gradients.positions)
    last = history.sources[-1] if history.sources else None
    return last if last is not None and last.group is group and last.positions is None else Source(group, None)


def _rates(optimizer: Optimizer) -> tuple[Any, ...]:
    """Return the rates as they are now: schedulers write into those that are tensors. No transfer to the host."""
    rates = [part.get("lr") for part in optimizer.param_groups]
    return tuple([rate.detach().clone() if isinstance(rate, Tensor) else rate for rate in rates])
