"""The engine: one optimizer step in, one decision out. It knows no training framework."""

from __future__ import annotations

import logging
import os
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from gradwatch.capture.batch import batch_size_of
from gradwatch.capture.gradients import Gradients, read_gradients, total_on_device
from gradwatch.capture.parameters import has_lazy_parameters
from gradwatch.capture.rollback import Rollback, evaluates_again
from gradwatch.capture.scaling import ScaleTrend, scale_of, unscales_itself, will_skip
from gradwatch.capture.window import StepWindow
from gradwatch.diagnosis.anomaly import AnomalyMode
from gradwatch.engine.clip_rule import resolve_clip_rule
from gradwatch.engine.closer_look import CloserLook
from gradwatch.engine.context import RunContext
from gradwatch.engine.counters import Counters
from gradwatch.engine.endings import DROPPED, Ending, end_forgotten, keep_watch
from gradwatch.engine.flight_recorder import FlightRecorder
from gradwatch.engine.gradient_checks import GradientChecks
from gradwatch.engine.health_rules import HealthRules
from gradwatch.engine.recorder import Recorder
from gradwatch.engine.recording import Position, TakenStep, largest_layer
from gradwatch.engine.reporter import Reporter
from gradwatch.engine.response import BadStep, Responder
from gradwatch.engine.run_events import run_end, run_start, start_warnings
from gradwatch.engine.settings import Settings
from gradwatch.engine.watched import Watched
from gradwatch.numerics import clip_coefficient, scale_
from gradwatch.observations import HugeGradient
from gradwatch.replica.step_runner import LossFunctionRunner
from gradwatch.sinks.tags import gradient_check_metrics, health_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from gradwatch.capture.parameters import ParameterGroup
    from gradwatch.capture.state_scan import Birth
    from gradwatch.observations import Fate
    from gradwatch.records import RunStatus

log = logging.getLogger("gradwatch")

# Verdicts on one step, in the order in which they win when the ranks differ.
FINE, HUGE, OVERFLOW, BAD = 0, 1, 2, 3


class HealthMonitor:
    """Watches the optimizer steps of one module.

    Call ``start`` once; for each batch ``begin_batch``, ``observe_loss`` before each backward, ``before_step`` when
    the gradients are final (not yet clipped), ``after_step`` after the optimizer has acted, and ``end_batch``; at the
    end ``end``. The arguments are those of ``NumericalHealthMonitor``. ``is_log_step``: this batch's step is
    written down.
    """

    _watched: Watched

    def __init__(self, **arguments: Any) -> None:
        self.settings = Settings(**arguments)
        self._be_new()

    def _be_new(self) -> None:
        """Be a monitor that has watched nothing."""
        self.counters = Counters()
        self.run_id = uuid.uuid4().hex
        self.resumed_from: str | None = None
        self.active = self._started = self._loaded = self.is_log_step = False
        self._anomaly = AnomalyMode()
        self._told = self.counters.trouble
        self._memory: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the settings and what was loaded for a run to come; batches and files stay with this one."""
        loaded = {**self.state_dict(), "run_id": self.resumed_from} if self._loaded else None
        return {"settings": self.settings, "loaded": loaded}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be a monitor that has watched nothing yet."""
        self.settings = state["settings"]
        self._be_new()
        if state["loaded"] is not None:
            self.load_state_dict(state["loaded"])

    # -- the life of a run --------------------------------------------------------------------------------------

    def start(
        self,
        module: nn.Module,
        optimizers: Optimizer | Sequence[Optimizer],
        context: RunContext | None = None,
        *,
        loss_function: Callable[[nn.Module, Any], Tensor] | None = None,
    ) -> None:
        """Begin to watch ``module``; writes ``run_start`` (for lazy modules after the first forward).

        Args:
            module: its parameters, buffers and layer names are watched.
            optimizers: one, or all that step its parameters.
            context: the loop's setting; by default a single process that writes to ``dirpath`` (or ``gradwatch``).
            loss_function: returns the loss of module and batch. With it, a step whose loss or gradients are not
                finite is run again on a copy, and the incident names the operation.
        """
        self.end("interrupted", "another run was started")
        if self._started and not self._loaded:  # a second fit with the same callback goes on counting
            same = self._watched.module is module
            self.resumed_from = self.run_id if same else None
            self._memory = self._remembered() if same else {}
        context = context or RunContext(dirpath=os.fspath(self.settings.dirpath or "gradwatch"))
        if loss_function is not None:
            context = replace(context, runner=LossFunctionRunner(loss_function))
        self.run_id = context.run_id or uuid.uuid4().hex
        listed = optimizers if isinstance(optimizers, (list, tuple)) else [cast("Optimizer", optimizers)]
        every = self.settings.log_every_n_steps
        self._context = context
        self._every = context.log_every_n_steps if every is None else every
        done = self.counters.steps if context.step is None else context.step
        self._position = Position(done, context.epoch, None, done)
        self._watched = Watched(module, listed, self.settings.granularity)
        self._window: StepWindow[Position] = StepWindow()
        self._rollbacks: dict[int, Rollback] = {}
        self._loss_scale: float | None = None
        self._scale_trend = ScaleTrend()
        self._scan_due = self._announced = self.is_log_step = False
        self._steps_in_batch = 0
        flight = FlightRecorder(self._watched, context.rank)
        self._reporter = Reporter(
            context,
            flight=flight,
            layer_scalars=self.settings.layer_scalars,
            max_incident_bytes=self.settings.max_incident_bytes,
        )
        self._responder = Responder(self.settings, context, self._watched, self._reporter, self.counters, self._anomaly)
        fp16 = context.compute_format(module.parameters()) == "fp16"
        self._look = CloserLook(self.settings.granularity, fp16=fp16)
        self.clip_rule = resolve_clip_rule(self.settings.clip, module, context)
        self._rules = HealthRules(
            self.settings.detectors,
            context,
            self._watched,
            self._look,
            self._reporter,
            max_norm=self.clip_rule.max_norm,
        )
        self._rules.load_state_dict(self._memory)
        self._started, self._loaded = True, False  # from here on the rules have the memory
        self._recorder = Recorder(self._watched, self.counters, self._reporter, self._rules, flight, self._header)
        self._checks = GradientChecks(self.settings, context, self._watched, self._reporter, self._rules.read)
        if not has_lazy_parameters(module):
            self._announce()
        self.home = keep_watch(self)
        self.active = True  # last, so that a monitor that cannot begin to watch stays out of the way

    def __del__(self) -> None:
        """End a run that its loop has not ended."""
        if getattr(self, "active", False):
            end_forgotten(self, self.home, Ending("interrupted", DROPPED))

    def end(self, status: RunStatus, reason: str | None = None) -> None:
        """Write ``run_end`` and close the files; nothing if that has been done."""
        self._anomaly.end_batch()
        if not self.active:
            return
        self.active = False
        self._look.end_step()
        try:
            self._recorder.flush()
        finally:  # after a device error nothing can be measured any more, but the end can still be written
            event = run_end(self._header(), self.run_id, status, reason, self.counters)
            self._reporter.end(event, self.counters.clip_rate)

    @property
    def has_log(self) -> bool:
        """Whether the event log of this run is still there."""
        return self._reporter.has_log()

    @property
    def stop_requested(self) -> bool:
        """Whether an incident under ``on_nonfinite="stop"`` asks the loop to end."""
        return self.active and self._responder.stop_requested

    # -- the flow of a batch ------------------------------------------------------------------------------------

    def begin_batch(
        self, batch: object, batch_idx: int, *, epoch: int = 0, step: int | None = None, log_step: int | None = None
    ) -> None:
        """Keep a reference to the batch, and the buffers as they are before it.

        Args:
            batch: whatever the loader yields; read only if the step turns out bad.
            batch_idx: its index in the epoch.
            epoch: the current epoch.
            step: optimizer steps done so far; counted here if not given.
            log_step: x-axis of the loggers; ``step`` if not given.

        Raises:
            RuntimeError: ``start`` has not been called, or ``end`` has.
        """
        if not self.active:
            raise RuntimeError("begin_batch: the monitor is not watching; call start(module, optimizers) first")
        done = self.counters.steps if step is None else step
        self._position = Position(done, epoch, batch_idx, done if log_step is None else log_step)
        self.is_log_step = self._every > 0 and (self._position.log_step + 1) % self._every == 0
        new_window = self._window.starts_anew
        self._steps_in_batch = 0
        self._stepped_well = False
        watched = self._watched
        # References only: a step that keeps a number or a tensor on its module gives the name another object.
        attributes = dict(vars(watched.module))
        self._window.begin(self._position, watched.batches.keep(batch), watched.random.before_batch(), attributes)
        self._anomaly.begin_batch()
        self._watched.buffers.before_batch(new_window=new_window)
        if new_window and self._rules.wanted and (self.is_log_step or self._look.is_first):
            self._look.begin(watched.module, batch, log=self.is_log_step)

    def end_forward(self) -> None:
        """Take the hooks off, if any are on; for loops that know of the end of a forward pass before its loss."""
        if self.active and self._look.is_on:
            self._look.end_forward()

    def observe_loss(self, loss: Tensor, *, factor: float = 1.0) -> None:
        """Keep the loss that is about to be backpropagated, on its device.

        Args:
            loss: a scalar; the scaled one where the context has a GradScaler.
            factor: undoes a division of it, as by the number of accumulated batches.

        Raises:
            RuntimeError: no batch has begun.
        """
        if not (self.active and self._window.micro_batches):
            raise RuntimeError("observe_loss: no batch has begun; call begin_batch(batch, batch_idx) for each")
        if self._look.is_on:
            self._look.see_loss(loss)
        value = loss.detach() if loss.numel() == 1 else loss.detach().mean()
        if self._context.scaler is not None:
            value = value / scale_of(self._context.scaler, value.device)
        self._window.observe(value if factor == 1.0 else value * factor)

    def before_step(self, optimizer: Optimizer, *, step: int | None = None) -> bool:
        """Judge the gradients that ``optimizer`` is about to use, and clip them.

        Args:
            optimizer: all its backward passes are done; unscaled, unless it unscales by itself.
            step: optimizer steps done so far; counted here if not given.

        Returns:
            False if this update will not happen: gradients are None, or left in place for the GradScaler to skip.

        Raises:
            NonFiniteError: under ``on_nonfinite="raise"``, or after ``max_skips`` skips in a row.
        """
        if step is not None and step != self._position.step:
            self._position = self._position._replace(step=step)
        verdict, failed = FINE, 1
        try:
            try:
                if not self._announced:
                    self._announce()
                group = self._watched.group_of(optimizer)
                gradients, verdict = self._read(group)
                failed = 0
            finally:  # a rank whose monitor fails must still take part, or the others wait for ever
                agreed = self._context.agree(2 * verdict + failed)
            try:
                return self._act(agreed // 2, group, gradients)
            finally:  # after the act: should it fail, this rank has clipped like the others
                if agreed == FINE and self.is_log_step:
                    self._rules.compare_ranks(group, gradients)
        finally:
            self._window.close()
            self._steps_in_batch += 1

    def after_clip(self, optimizer: Optimizer) -> None:
        """Look at what clipping by the loop itself has left, where its rule is no norm.

        Its norm is recorded on log steps; the user's own code is judged at every step, as it can divide by zero.

        Raises:
            NonFiniteError: as in ``before_step``.
        """
        group = self._watched.group_of(optimizer)
        waits = self._recorder.waits(group.index)
        if not self._context.clips_by_other_means or not (self._context.clips_by_user_code or waits):
            return
        gradients = read_gradients(group)
        if waits:
            self._recorder.clipped_to(group.index, gradients.total)
        if not gradients.finite and self._context.clips_by_user_code:
            bad = self._bad_step(group, gradients)._replace(steps_before=self._steps_in_batch - 1)
            self._respond(bad, again=True)

    @property
    def awaits_update(self) -> bool:
        """Whether ``after_step`` has something to do: on other steps it need not be called."""
        return self._recorder.waits() or bool(self._rollbacks)

    def after_step(self, optimizer: Optimizer) -> None:
        """Finish the record of a log step, now that the weights have moved."""
        if not self.awaits_update:
            return
        index = self._watched.group_of(optimizer).index
        self._rollbacks.pop(index, None)
        if self._recorder.waits(index):
            self._recorder.finish(index)

    def end_batch(self) -> None:
        """Write what waits, and look once at gradients that no step has used yet.

        Raises:
            NonFiniteError: an enormous gradient has made the optimizer's state non-finite.
        """
        self._anomaly.end_batch()
        self._watched.batches.check()
        self._watched.random.after_batch()
        self._recorder.flush()
        if self._look.is_on:
            self._look.end_forward()
        if self._window.waits_for_step:
            self._window.flag_gradients([total_on_device(group) for group in self._watched.groups])
        else:
            if self._look.is_on:
                self._look.end_step()
            if self.is_log_step:
                self._recorder.end_log_step()
            if self._scan_due or self.is_log_step:
                self._scan_due = False
                self.scan()
            if self._stepped_well and self._checks.due(self.counters.steps):
                batch, log_step = self._window.micro_batches[-1], self._position.log_step
                self._checks.after_batch(batch, self.counters.steps, self._header(), log_step)
        self._watched.scanner.forget_finite()
        step, epoch, _, log_step = self._position
        self._position = Position(step, epoch, None, log_step)

    def scan(self, *, together: bool = True) -> None:
        """Look at weights, buffers and optimizer state for values that have become non-finite.

        Args:
            together: all ranks scan now and decide as one; False where only this rank may be looking.

        Raises:
            NonFiniteError: under ``on_nonfinite="raise"``.
        """
        births: list[Birth] = []
        self._recorder.rest()
        try:
            # Inside an accumulation window the buffers may hold traces of a batch that has not been judged yet.
            before = self._watched.buffers.before(0) if self._window.waits_for_step else None
            births = self._watched.scanner.scan(before)
        finally:  # as in before_step
            verdict = BAD if births else FINE
            verdict = self._context.agree(verdict) if together else verdict
        if verdict == BAD:
            self._responder.report_state(births, self._position, together=together)
        self._watched.scanned_at = self._position.step

    def observe_validation(self, losses: Mapping[str, float]) -> None:
        """Show the health rules what a validation has measured: losses by name."""
        if self.active:
            self._rules.read_validation(losses, self._header())

    # -- what others may ask ------------------------------------------------------------------------------------

    def health(self) -> dict[str, float]:
        """Return the ``health/*`` values of each optimizer's last step by tag."""
        metrics: dict[str, float] = {}
        for index, history in enumerate(self._watched.histories):
            if history.rows:
                metrics |= health_values(
                    optimizer=index,
                    grad_norm=history.rows[-1].grad_norm,
                    coefficient=history.rows[-1].coefficient,
                    clip_rate=self.counters.clip_rate,
                    nonfinite_steps=self.counters.nonfinite,
                    skipped_steps=self.counters.skipped,
                    loss_scale=self._loss_scale,
                )
        return metrics | gradient_check_metrics([self._checks.worst_error])

    def has_news(self) -> bool:
        """Whether a counter of trouble has moved since the last call."""
        told, self._told = self._told, self.counters.trouble
        return told != self._told

    def state_dict(self) -> dict[str, Any]:
        """Return counters and run id as plain values."""
        counters, rules = self.counters.state_dict(), self._remembered()
        return {"version": 1, "run_id": self.run_id, "counters": counters, "rules": rules}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the counters of the run that ``state`` comes from."""
        self.resumed_from, self._loaded = state.get("run_id"), True
        self.counters.load_state_dict(state.get("counters", {}))
        self._memory = dict(state.get("rules", {}))

    def _remembered(self) -> dict[str, Any]:
        """Return the memory of the health rules: that of this run, or the one that has been loaded for it."""
        return self._rules.state_dict() if self._started and not self._loaded else self._memory

    # -- judging one step ---------------------------------------------------------------------------------------

    def _read(self, group: ParameterGroup) -> tuple[Gradients, int]:
        scalars, scaler = self._window.unread(), self._context.scaler
        if scaler is not None:
            scalars.append(scale_of(scaler, group.parameters[0].device))
        gradients = read_gradients(group, scalars)
        self._loss_scale = gradients.extras.pop() if scaler is not None else None
        self._recorder.add_losses(self._window.take(gradients.extras))
        if self._loss_scale is not None and unscales_itself(group.optimizer):
            gradients = gradients.divided_by(self._loss_scale)
        return gradients, self._verdict(group, gradients)

    def _verdict(self, group: ParameterGroup, gradients: Gradients) -> int:
        """A GradScaler's overflow is routine while the loss is finite and there is a scale left to blame.

        Whether the scale really is to blame is found out by running the step again without it.
        """
        bad_loss, scaler, scale = self._window.bad_losses, self._context.scaler, self._loss_scale
        if gradients.finite and not bad_loss:
            return HUGE if gradients.huge else FINE
        if bad_loss or scaler is None or scale is None or scale <= 1.0:
            return BAD
        routine = unscales_itself(group.optimizer) or will_skip(scaler, group.optimizer)
        return OVERFLOW if routine else BAD

    def _act(self, verdict: int, group: ParameterGroup, gradients: Gradients) -> bool:
        if verdict == BAD:
            return self._respond(self._bad_step(group, gradients))
        if verdict == OVERFLOW:
            bad = self._bad_step(group, gradients)
            persists = self._responder.persists_unscaled(bad)
            if self._context.agree(int(persists or self._scale_trend.overflow(bad.loss_scale or 1.0))):
                return self._respond(bad._replace(loss_scale=1.0) if persists else bad)
            self._note_overflow(group, gradients)
            return False
        self._scan_due |= verdict == HUGE
        self._accept(group, gradients)
        self._stepped_well = True
        return True

    def _accept(self, group: ParameterGroup, gradients: Gradients) -> None:
        coefficient = self._clip(gradients)
        if evaluates_again(group.optimizer):
            if group.index in self._rollbacks:
                return  # a further evaluation of the same step: judged and clipped, but counted once
            self._rollbacks[group.index] = Rollback(group.optimizer)
        self._responder.note_good_step(group)
        self._scale_trend.good_step(self._loss_scale)
        self._remember(group, gradients, coefficient, nonfinite=False)
        if gradients.huge:
            fate, layer = self._fate_of_huge(coefficient), largest_layer(group, gradients) or ""
            self._rules.read(HugeGradient(**self._header(), layer=layer, norm=gradients.total, fate=fate))

    def _clip(self, gradients: Gradients) -> float:
        if self.clip_rule.max_norm is None or not gradients.tensors:
            return 1.0
        coefficient = clip_coefficient(gradients.total, self.clip_rule.max_norm)
        if coefficient < 1.0 and self._context.clip_rule is None:
            scale_(gradients.tensors, coefficient)
        return coefficient

    def _fate_of_huge(self, coefficient: float) -> Fate:
        if self._context.clip_rule is None:
            return "clipped" if coefficient < 1.0 else "kept"
        return "left alone" if self._context.clips_by_other_means else "zeroed"

    def _note_overflow(self, group: ParameterGroup, gradients: Gradients) -> None:
        """The GradScaler found an overflow: it will skip this update and lower its scale, as it is meant to."""
        self.counters.overflows += 1
        self._remember(group, gradients, nonfinite=True, skipped=True)

    def _is_bad(self, gradients: Gradients) -> bool:
        return not gradients.finite or bool(self._window.bad_losses)

    def _bad_step(self, group: ParameterGroup, gradients: Gradients) -> BadStep:
        return BadStep(group, gradients, self._window, self._position, self._steps_in_batch, self._loss_scale)

    def _respond(self, bad: BadStep, *, again: bool = False) -> bool:
        group, gradients = bad.group, bad.gradients
        decision = self._responder.decide(group)
        if decision.drop:  # first of all: whatever fails below, these gradients must not reach the weights
            self._responder.drop(group, gradients, self._window.first_bad().index)
            if group.index in self._rollbacks:
                self._rollbacks.pop(group.index).undo()
        skipped = decision.drop and not decision.raises
        self._remember(group, gradients, nonfinite=self._is_bad(gradients), skipped=skipped, again=again)
        self._responder.report_step(decision, bad)
        return not decision.drop

    # -- writing it down ----------------------------------------------------------------------------------------

    def _remember(
        self,
        group: ParameterGroup,
        gradients: Gradients,
        coefficient: float = 1.0,
        *,
        nonfinite: bool,
        skipped: bool = False,
        again: bool = False,
    ) -> None:
        """Add the step to counters and history, and begin its record on a log step; ``again``: as a bad one now."""
        if self._look.is_first:
            self._rules.read_first(self._header())
        step = TakenStep(
            self._position,
            group,
            gradients,
            coefficient,
            self._loss_scale,
            batch_size_of(self._window.micro_batches[-1].batch),
            nonfinite,
            skipped,
        )
        self._recorder.remember(step, max_norm=self.clip_rule.max_norm, log=self.is_log_step, again=again)

    def _announce(self) -> None:
        """Write ``run_start`` and take what is non-finite now as given."""
        self._announced = True
        self._watched.regroup()
        event = run_start(
            self._header(),
            self._watched,
            self._context,
            self.settings,
            run_id=self.run_id,
            resumed_from=self.resumed_from,
            steps_before=self.counters.steps,
            clip=self.clip_rule,
        )
        self._reporter.start(event)
        for warning in start_warnings(self._watched, self.settings, event):
            log.warning("%s", warning)

    def _header(self, position: Position | None = None) -> dict[str, Any]:
        step, epoch, batch_idx, _ = position or self._position
        return {"time": time.time(), "step": step, "epoch": epoch, "batch_idx": batch_idx, "rank": self._context.rank}
