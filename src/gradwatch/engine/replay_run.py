"""One run of a bad step on a copy: traced, repaired, or up to the derivative that anomaly mode blames."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import torch

from gradwatch.capture.batch import named_tensors
from gradwatch.diagnosis.anomaly_pass import AnomalyFound, AnomalyPass
from gradwatch.diagnosis.memory import Memory
from gradwatch.diagnosis.repair import RepairMode, make_finite, replace_samples
from gradwatch.diagnosis.trace import Decided, Tracer
from gradwatch.diagnosis.verdict import Traced
from gradwatch.engine.evidence_gathering import size_of
from gradwatch.engine.replay_observer import Reached, ReplayObserver, end, go_on
from gradwatch.replica import randomness
from gradwatch.replica.batches import copy_batch
from gradwatch.replica.guard import GuardMode
from gradwatch.replica.unnoticed import restore_state
from gradwatch.tracing.module_stack import ModuleStack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from gradwatch.diagnosis.memory import LeafKind
    from gradwatch.diagnosis.repair import Repair
    from gradwatch.engine.failure import Failure
    from gradwatch.replica.copying import SideCopy
    from gradwatch.replica.guard import StepGuard
    from gradwatch.replica.step_runner import Moment, StepRunner


class ReplayRun:
    """A bad step that runs again, once, on a copy of its own."""

    def __init__(self, runner: StepRunner, copy: SideCopy, failure: Failure, guard: StepGuard) -> None:
        self._runner, self._copy, self._failure, self._guard = runner, copy, failure, guard
        self._until_guilty, self._after = failure.split()
        restore_state(copy.module, self._until_guilty[0])

    def traced(self, *, alone: bool, stop_at: int | None) -> Traced:
        """Run it under a tracer; ``alone``: no other rank takes part, so a bad loss ends the trace."""
        modules = ModuleStack(self._copy.module)
        memory = Memory(_named(self._copy.module, self._guilty_batch), born=self._failure.born)
        tracer = Tracer(modules, memory, self._guard, stop_at=stop_at)
        decide = functools.partial(setattr, tracer, "decided", True)
        observer = self._observer(decide if alone and stop_at is None else go_on)
        with self._guard:
            # The user's own anomaly mode would raise at the first NaN.
            with modules, torch.autograd.set_detect_anomaly(False), tracer:
                try:
                    self._run_until_guilty(observer)
                except RuntimeError:  # what TorchScript makes of an exception that ends a trace
                    if not tracer.finished:
                        raise
            # A trace that a bad loss has ended has not seen all of the step.
            traced = observer.verdict(tracer)._replace(is_harmless=self._guard.is_idle and not tracer.decided)
            self._run_after(observer)
        return traced

    def checked(self, *, alone: bool) -> Traced:
        """Run it without a trace, to know whether it comes out bad; ``alone`` as in ``traced``."""
        observer = self._observer(end if alone else go_on)
        with self._guard:
            with GuardMode(self._guard):
                self._run_until_guilty(observer)
            traced = Traced(is_bad=observer.is_bad)
            self._run_after(observer)
        return traced

    def up_to_anomaly(self, operation: int) -> Traced:
        """Run it until the derivative of an operation, by number, and return anomaly mode's text."""
        with self._guard, AnomalyPass(self._guard, operation) as found, contextlib.suppress(AnomalyFound):
            self._run_until_guilty(self._observer(go_on))
        return Traced(anomaly=found.text)

    def repaired(self, repair: Repair) -> Traced:
        """Run it with some births or samples made finite, to know whether it still comes out bad."""
        batch = [tensor for _, tensor in named_tensors(self._guilty_batch)]
        named = {name: tensor for (_, name), tensor in _named(self._copy.module, self._guilty_batch).items()}
        make_finite([named[name] for name in repair.leaves & named.keys()])
        if repair.samples:
            replace_samples(batch, repair.samples, size_of(self._guilty_batch) or 0)
        observer = self._observer(end)
        unwatched = repair.is_harmless and not repair.operations
        with self._guard, contextlib.nullcontext() if unwatched else RepairMode(self._guard, repair.operations):
            self._run_until_guilty(observer)
        return Traced(is_bad=observer.is_bad, loss_is_bad=observer.loss_is_bad)

    @property
    def _guilty_batch(self) -> object:
        return self._until_guilty[-1].batch

    def _observer(self, on_bad_loss: Callable[[], None]) -> ReplayObserver:
        return ReplayObserver(self._copy.optimizers[self._failure.optimizer], self._failure, on_bad_loss)

    def _run_until_guilty(self, observer: ReplayObserver) -> None:
        self._run_moments(self._until_guilty, observer, with_step=self._failure.with_step and not self._after)

    def _run_after(self, observer: ReplayObserver) -> None:
        """Run what is of no interest here, where other ranks wait for its collectives."""
        if self._after:
            with GuardMode(self._guard):
                self._run_moments(self._after, observer, with_step=self._failure.with_step)

    def _run_moments(self, moments: Sequence[Moment], observer: ReplayObserver, *, with_step: bool) -> None:
        generators = randomness.generators_in(self._copy.module)
        for moment in moments:
            if moment.random_state is not None:
                randomness.restore(moment.random_state, generators)
            # The step may write into its batch, and that into the data set of which it is a view. One at a time.
            kept = any(moment is one for one in self._failure.moments)
            own = moment._replace(batch=copy_batch(moment.batch)) if kept else moment
            steps = with_step and moment is moments[-1]
            with contextlib.suppress(Reached, Decided):
                self._runner(self._copy, own, observer, loss_scale=self._failure.loss_scale, with_step=steps)


def _named(module: nn.Module, batch: object) -> dict[tuple[LeafKind, str], Tensor]:
    named: dict[tuple[LeafKind, str], Tensor] = {("batch", name): tensor for name, tensor in named_tensors(batch)}
    named |= {("parameter", name): parameter for name, parameter in module.named_parameters()}
    named |= {("buffer", name): buffer for name, buffer in module.named_buffers()}
    return named
