"""The engine: one optimizer step in, one decision out. It knows no training framework."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from gradwatch.capture.gradients import total_on_device
from gradwatch.capture.parameters import has_lazy_parameters
from gradwatch.capture.scaling import scale_of
from gradwatch.diagnosis.anomaly import AnomalyMode
from gradwatch.engine.context import RunContext
from gradwatch.engine.counters import Counters
from gradwatch.engine.endings import DROPPED, Ending, end_forgotten, keep_watch
from gradwatch.engine.recording import Position
from gradwatch.engine.run import Run
from gradwatch.engine.settings import Settings
from gradwatch.engine.step_judge import FINE, HUGE, Attempt
from gradwatch.replica.step_runner import LossFunctionRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from gradwatch.capture.gradients import Gradients
    from gradwatch.capture.parameters import ParameterGroup
    from gradwatch.records import RunStatus


class HealthMonitor:
    """Watches the optimizer steps of one module.

    Call ``start`` once; for each batch ``begin_batch``, ``observe_loss`` before each backward, ``before_step`` when
    the gradients are final (not yet clipped), ``after_step`` after the optimizer has acted, and ``end_batch``; at the
    end ``end``. The arguments are those of ``NumericalHealthMonitor``. ``is_log_step``: this batch's step is
    written down.
    """

    _run: Run

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
            same = self._run.watched.module is module
            self.resumed_from = self.run_id if same else None
            self._memory = self._remembered() if same else {}
        context = context or RunContext(dirpath=os.fspath(self.settings.dirpath or "gradwatch"))
        if loss_function is not None:
            context = replace(context, runner=LossFunctionRunner(loss_function))
        self.run_id = context.run_id or uuid.uuid4().hex
        every = self.settings.log_every_n_steps
        self._every = context.log_every_n_steps if every is None else every
        done = self.counters.steps if context.step is None else context.step
        self._position = Position(done, context.epoch, None, done)
        self._scan_due = self._stepped_well = self.is_log_step = False
        self._steps_in_batch = 0
        self._run = Run(
            self.settings,
            context,
            module,
            optimizers if isinstance(optimizers, (list, tuple)) else [cast("Optimizer", optimizers)],
            counters=self.counters,
            anomaly=self._anomaly,
            run_id=self.run_id,
            memory=self._memory,
        )
        self.clip_rule = self._run.clip_rule
        self._started, self._loaded = True, False  # from here on the rules have the memory
        if not has_lazy_parameters(module):
            self._run.announce(self._position, self.resumed_from)
        self.home = keep_watch(self)
        self.active = True  # last, so that a monitor that cannot begin to watch stays out of the way

    def __del__(self) -> None:
        """End a run that its loop has not ended."""
        if getattr(self, "active", False):
            end_forgotten(self, self.home, Ending("interrupted", DROPPED))

    def end(self, status: RunStatus, reason: str | None = None) -> None:
        """Write ``run_end`` and close the files; nothing if that has been done."""
        self._anomaly.end_batch()
        if self.active:
            self.active = False
            self._run.end(self._position, status, reason)

    @property
    def has_log(self) -> bool:
        """Whether the event log of this run is still there."""
        return self._run.reporter.has_log()

    @property
    def stop_requested(self) -> bool:
        """Whether an incident under ``on_nonfinite="stop"`` asks the loop to end."""
        return self.active and self._run.responder.stop_requested

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
        run, watched = self._run, self._run.watched
        new_window = run.window.starts_anew
        self._steps_in_batch = 0
        self._stepped_well = False
        # References only: a step that keeps a number or a tensor on its module gives the name another object.
        attributes = dict(vars(watched.module))
        run.window.begin(self._position, watched.batches.keep(batch), watched.random.before_batch(), attributes)
        self._anomaly.begin_batch()
        watched.buffers.before_batch(new_window=new_window)
        if new_window and run.rules.wanted and (self.is_log_step or run.look.is_first):
            run.look.begin(watched.module, batch, log=self.is_log_step)

    def end_forward(self) -> None:
        """Take the hooks off, if any are on; for loops that know of the end of a forward pass before its loss."""
        if self.active and self._run.look.is_on:
            self._run.look.end_forward()

    def observe_loss(self, loss: Tensor, *, factor: float = 1.0) -> None:
        """Keep the loss that is about to be backpropagated, on its device.

        Args:
            loss: a scalar; the scaled one where the context has a GradScaler.
            factor: undoes a division of it, as by the number of accumulated batches.

        Raises:
            RuntimeError: no batch has begun.
        """
        if not (self.active and self._run.window.micro_batches):
            raise RuntimeError("observe_loss: no batch has begun; call begin_batch(batch, batch_idx) for each")
        run = self._run
        if run.look.is_on:
            run.look.see_loss(loss)
        value = loss.detach() if loss.numel() == 1 else loss.detach().mean()
        if run.context.scaler is not None:
            value = value / scale_of(run.context.scaler, value.device)
        run.window.observe(value if factor == 1.0 else value * factor)

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
        run, verdict, failed = self._run, FINE, 1
        try:
            try:
                if not run.announced:
                    run.announce(self._position, self.resumed_from)
                group = run.watched.group_of(optimizer)
                gradients, verdict = run.judge.read(group)
                failed = 0
            finally:  # a rank whose monitor fails must still take part, or the others wait for ever
                agreed = run.context.agree(2 * verdict + failed)
            try:
                return self._act(agreed // 2, group, gradients)
            finally:  # after the act: should it fail, this rank has clipped like the others
                if agreed == FINE and self.is_log_step:
                    run.rules.compare_ranks(group, gradients)
        finally:
            run.window.close()
            self._steps_in_batch += 1

    def after_clip(self, optimizer: Optimizer) -> None:
        """Look at what clipping by the loop itself has left, where its rule is no norm.

        Its norm is recorded on log steps; the user's own code is judged at every step, as it can divide by zero.

        Raises:
            NonFiniteError: as in ``before_step``.
        """
        run = self._run
        group, steps_before = run.watched.group_of(optimizer), self._steps_in_batch - 1
        run.judge.check_clipped(group, self._position, steps_before, log=self.is_log_step)

    @property
    def awaits_update(self) -> bool:
        """Whether ``after_step`` has something to do: on other steps it need not be called."""
        return self._run.recorder.waits() or bool(self._run.judge.rollbacks)

    def after_step(self, optimizer: Optimizer) -> None:
        """Finish the record of a log step, now that the weights have moved."""
        if not self.awaits_update:
            return
        run = self._run
        index = run.watched.group_of(optimizer).index
        run.judge.forget(index)
        if run.recorder.waits(index):
            run.recorder.finish(index)

    def end_batch(self) -> None:
        """Write what waits, and look once at gradients that no step has used yet.

        Raises:
            NonFiniteError: an enormous gradient has made the optimizer's state non-finite.
        """
        self._anomaly.end_batch()
        run, watched = self._run, self._run.watched
        watched.batches.check()
        watched.random.after_batch()
        run.recorder.flush()
        if run.look.is_on:
            run.look.end_forward()
        if run.window.waits_for_step:
            run.window.flag_gradients([total_on_device(group) for group in watched.groups])
        else:
            if run.look.is_on:
                run.look.end_step()
            if self.is_log_step:
                run.recorder.end_log_step()
            if self._scan_due or self.is_log_step:
                self._scan_due = False
                self.scan()
            if self._stepped_well and run.checks.due(self.counters.steps):
                batch, log_step = run.window.micro_batches[-1], self._position.log_step
                run.checks.after_batch(batch, self.counters.steps, run.header(self._position), log_step)
        watched.scanner.forget_finite()
        step, epoch, _, log_step = self._position
        self._position = Position(step, epoch, None, log_step)

    def scan(self, *, together: bool = True) -> None:
        """Look at weights, buffers and optimizer state for values that have become non-finite.

        Args:
            together: all ranks scan now and decide as one; False where only this rank may be looking.

        Raises:
            NonFiniteError: under ``on_nonfinite="raise"``.
        """
        self._run.judge.judge_state(self._position, together=together)

    def observe_validation(self, losses: Mapping[str, float]) -> None:
        """Show the health rules what a validation has measured: losses by name."""
        if self.active:
            self._run.rules.read_validation(losses, self._run.header(self._position))

    def _act(self, verdict: int, group: ParameterGroup, gradients: Gradients) -> bool:
        self._scan_due |= verdict == HUGE
        attempt = Attempt(group, gradients, self._position, self._steps_in_batch, self.is_log_step)
        kept = self._run.judge.act(verdict, attempt)
        self._stepped_well |= verdict in (FINE, HUGE)
        return kept

    # -- what others may ask ------------------------------------------------------------------------------------

    def health(self) -> dict[str, float]:
        """Return the ``health/*`` values of each optimizer's last step by tag."""
        return self._run.health()

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
        return self._run.rules.state_dict() if self._started and not self._loaded else self._memory
