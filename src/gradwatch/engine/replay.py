"""The replay: a bad step once more, on a copy that training cannot notice, traced to the birth of the bad value."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from gradwatch.capture.batch import named_tensors
from gradwatch.capture.rollback import evaluates_again
from gradwatch.diagnosis.anomaly_pass import AnomalyFound, AnomalyPass
from gradwatch.diagnosis.memory import Memory, special_of
from gradwatch.diagnosis.repair import Repair, RepairMode, make_finite, replace_samples, suspects, without
from gradwatch.diagnosis.slicing import births
from gradwatch.diagnosis.trace import Decided, StopAtBirth, Tracer
from gradwatch.diagnosis.verdict import Traced, guilty_samples
from gradwatch.engine.evidence_gathering import size_of, spelled
from gradwatch.engine.together import Together
from gradwatch.replica import randomness
from gradwatch.replica.batches import copy_batch
from gradwatch.replica.copying import side_copy
from gradwatch.replica.guard import CommunicationNeeded, GuardMode, StepGuard, refuse
from gradwatch.replica.memory import bytes_needed, fits
from gradwatch.replica.unnoticed import restore_state, unnoticed
from gradwatch.tracing.module_stack import ModuleStack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn
    from torch.optim import Optimizer

    from gradwatch.diagnosis.memory import LeafKind
    from gradwatch.diagnosis.slicing import Root
    from gradwatch.replica.copying import SideCopy
    from gradwatch.replica.step_runner import Moment, StepRunner

log = logging.getLogger("gradwatch")

# Each costs one more run of the step.
MAX_SUSPECTS = 4


class Reached(Exception):  # noqa: N818 - the end of a replay, no fault
    """The optimizer step that turned out bad has been reached."""


class Failure(NamedTuple):
    """A bad step, with what it takes to run it again.

    ``moments`` are the micro-batches from the first of the accumulation window to the guilty one. ``steps_before``:
    how many optimizer steps the guilty batch had already made (in manual optimization); they are not made again, since
    the weights have them. ``with_step``: whether the optimizer acted on the guilty micro-batch itself. ``born``: names
    of weights and buffers that were finite once, so that an infinity in them is no mask. ``guilty``: index of the
    guilty micro-batch, where the moments go on after it.
    """

    moments: Sequence[Moment]
    optimizer: int
    steps_before: int = 0
    with_step: bool = True
    loss_scale: float = 1.0
    born: frozenset[str] = frozenset()
    guilty: int = -1


class Replayer:
    """Runs bad steps of one module again."""

    def __init__(self, module: nn.Module, optimizers: Sequence[Optimizer], runner: StepRunner) -> None:
        self._module, self._optimizers, self._runner = module, optimizers, runner

    def trace(self, failure: Failure) -> Traced:
        """Return where the bad value was born. Nothing raises: what hinders the replay is the ``reason``.

        The guilty micro-batch runs first alone. If that comes out finite, the whole accumulation window follows, whose
        gradients may be bad in their sum alone; it is the second attempt before a value counts as not reproduced.
        """
        share_weights = not self._fits(share_weights=False)
        if share_weights and not self._fits(share_weights=True):
            return Traced(reason="a copy of the module would not fit into the free memory")
        for moments in (failure.moments[-1:], failure.moments):
            attempted = failure._replace(moments=moments)
            traced = self._attempt(attempted, share_weights=share_weights)
            if traced.root is not None:
                return self._narrowed(traced, attempted, share_weights=share_weights)
            if traced.reason is not None:
                return traced
        return Traced(compiled=_has_compiled())

    def _narrowed(self, traced: Traced, failure: Failure, *, share_weights: bool) -> Traced:
        """Find out by further runs which of several births matters, which samples do, and what anomaly mode says."""

        def is_bad_with(repair: Repair) -> bool:
            again = self._attempt(failure, share_weights=share_weights, trace=False, repair=repair)
            # Checkpointing computes a repaired value anew in the backward pass, which a bad loss does not depend on.
            return (again.loss_is_bad if traced.loss_is_bad else again.is_bad) or again.reason is not None

        traced = traced._replace(root=_decisive(traced, is_bad_with))
        size = size_of(failure.moments[failure.guilty].batch)
        samples = guilty_samples(traced.root, size)
        if samples and not is_bad_with(Repair(samples=samples, is_harmless=traced.is_harmless)):
            traced = traced._replace(samples=samples)
        if traced.anomaly_at is None:
            return traced
        again = self._attempt(failure, share_weights=share_weights, trace=False, anomaly_at=traced.anomaly_at)
        return traced._replace(anomaly=again.anomaly)

    def check(self, failure: Failure) -> Traced:
        """Find out whether the step comes out non-finite again: once, without a trace."""
        if not self._fits(share_weights=False):
            return Traced(reason="a copy of the module would not fit into the free memory")
        return self._attempt(failure, trace=False)

    def run_together(self, failure: Failure, agree: Callable[[int], int], *, trace: bool = True) -> Traced:
        """Run a step that communicates again, on all ranks at once and from the beginning of the window.

        Args:
            failure: the same window on all ranks.
            agree: the largest value of an integer over all ranks.
            trace: otherwise only ``is_bad`` is found out.
        """
        together = Together(agree)
        share_weights = not self._fits(share_weights=False)
        traced = self._attempt(
            failure, share_weights=share_weights, trace=trace, before_collective=together.before_collective
        )
        failed = traced.reason is not None and not traced.is_bad
        if together.finish(failed=failed) or failed or traced.root is not None:
            return traced
        return Traced(reason="running the step again on all ranks together failed on another rank", communicates=True)

    def stop_at(self, failure: Failure, operation: int) -> None:
        """Run the step until an operation, by number.

        Raises:
            StopAtBirth: it has been reached; the traceback leads to its tensors.
        """
        for moments in (failure.moments[-1:], failure.moments):
            self._attempt(failure._replace(moments=moments), stop_at=operation)

    def _fits(self, *, share_weights: bool) -> bool:
        needed = bytes_needed(self._module, self._optimizers, with_optimizer_state=False, share_weights=share_weights)
        return fits(needed)

    def _attempt(
        self,
        failure: Failure,
        *,
        share_weights: bool = False,
        trace: bool = True,
        before_collective: Callable[[str], None] = refuse,
        stop_at: int | None = None,
        anomaly_at: int | None = None,
        repair: Repair | None = None,
    ) -> Traced:
        again = evaluates_again(self._optimizers[failure.optimizer])
        guard = StepGuard(before_collective=before_collective)
        try:
            with unnoticed(self._module):
                copy = side_copy(
                    self._module,
                    self._optimizers,
                    replaced=self._runner.replaced(),
                    share_weights=share_weights,
                    with_optimizer_state=again,
                )
                if share_weights:
                    guard.protect(copy.module.parameters())
                if anomaly_at is not None:
                    return self._run_to_anomaly(copy, failure, guard, anomaly_at)
                if repair is not None:
                    return self._run_repaired(copy, failure, guard, repair)
                alone = before_collective is refuse
                traced = self._run(copy, failure, guard, trace=trace, alone=alone, stop_at=stop_at)
        except StopAtBirth:
            raise
        except Exception as error:
            log.debug("gradwatch: the replay failed", exc_info=True)
            traced = Traced(reason=f"running the step again failed with {type(error).__name__}: {error}")
        if guard.refused is None:
            return traced
        # Whatever became of the step after that, and whether it has caught the exception.
        alone = isinstance(guard.refused, CommunicationNeeded)
        why = f"the step communicates between the ranks ({guard.refused})" if alone else str(guard.refused)
        return Traced(reason=why, communicates=True)

    def _run(
        self, copy: SideCopy, failure: Failure, guard: StepGuard, *, trace: bool, alone: bool, stop_at: int | None
    ) -> Traced:
        until_guilty, after = _split(failure)
        restore_state(copy.module, until_guilty[0])
        modules = ModuleStack(copy.module)
        memory = Memory(_named(copy.module, until_guilty[-1].batch), born=failure.born)
        tracer = Tracer(modules, memory, guard, stop_at=stop_at)
        decide = functools.partial(setattr, tracer, "decided", True) if trace else _end
        observer = ReplayObserver(copy, failure, decide if alone and stop_at is None else _go_on)
        with guard:
            with contextlib.ExitStack() as entered:
                if trace:
                    entered.enter_context(modules)
                    # The user's own anomaly mode would raise at the first NaN.
                    entered.enter_context(torch.autograd.set_detect_anomaly(False))
                entered.enter_context(tracer if trace else GuardMode(guard))
                ends_here = failure._replace(with_step=failure.with_step and not after)
                try:
                    self._run_moments(copy, until_guilty, ends_here, observer)
                except RuntimeError:  # what TorchScript makes of an exception that ends a trace
                    if not tracer.finished:
                        raise
            traced = observer.verdict(tracer) if trace else Traced(is_bad=observer.is_bad)
            # A trace that a bad loss has ended has not seen all of the step.
            traced = traced._replace(is_harmless=guard.is_idle and not tracer.decided)
            if after:  # of no interest here, but other ranks wait for their collectives
                with GuardMode(guard):
                    self._run_moments(copy, after, failure, observer)
        return traced

    def _run_to_anomaly(self, copy: SideCopy, failure: Failure, guard: StepGuard, anomaly_at: int) -> Traced:
        moments, _ = _split(failure)
        restore_state(copy.module, moments[0])
        with guard, AnomalyPass(guard, anomaly_at) as found, contextlib.suppress(AnomalyFound):
            self._run_moments(copy, moments, failure, ReplayObserver(copy, failure))
        return Traced(anomaly=found.text)

    def _run_repaired(self, copy: SideCopy, failure: Failure, guard: StepGuard, repair: Repair) -> Traced:
        moments, _ = _split(failure)
        restore_state(copy.module, moments[0])
        batch = [tensor for _, tensor in named_tensors(moments[-1].batch)]
        named = {name: tensor for (_, name), tensor in _named(copy.module, moments[-1].batch).items()}
        make_finite([named[name] for name in repair.leaves & named.keys()])
        if repair.samples:
            replace_samples(batch, repair.samples, size_of(moments[-1].batch) or 0)
        observer = ReplayObserver(copy, failure, _end)
        unwatched = repair.is_harmless and not repair.operations
        with guard, contextlib.nullcontext() if unwatched else RepairMode(guard, repair.operations):
            self._run_moments(copy, moments, failure, observer)
        return Traced(is_bad=observer.is_bad, loss_is_bad=observer.loss_is_bad)

    def _run_moments(
        self, copy: SideCopy, moments: Sequence[Moment], failure: Failure, observer: ReplayObserver
    ) -> None:
        generators = randomness.generators_in(copy.module)
        for moment in moments:
            if moment.random_state is not None:
                randomness.restore(moment.random_state, generators)
            with_step = failure.with_step and moment is moments[-1]
            # The step may write into its batch, and that into the data set of which it is a view. One at a time.
            kept = any(moment is one for one in failure.moments)
            own = moment._replace(batch=copy_batch(moment.batch)) if kept else moment
            with contextlib.suppress(Reached, Decided):
                self._runner(copy, own, observer, loss_scale=failure.loss_scale, with_step=with_step)


def _go_on() -> None:
    """A bad loss ends nothing: its backward pass is wanted, or other ranks wait in it."""


def _end() -> NoReturn:
    """A bad loss is all that was to be found out."""
    raise Reached


class ReplayObserver:
    """Ends the replay at the step that turned out bad, and looks at its losses and gradients."""

    def __init__(self, copy: SideCopy, failure: Failure, on_bad_loss: Callable[[], None] = _go_on) -> None:
        self._copy, self._failure, self._on_bad_loss = copy, failure, on_bad_loss
        self._optimizer = copy.optimizers[failure.optimizer]
        self._again = evaluates_again(self._optimizer)
        self._losses: list[Tensor] = []
        self._steps = 0

    def terms(self, output: object) -> None:
        """The losses are all that a verdict needs."""

    def loss(self, loss: Tensor) -> None:
        """Keep a loss: its storage says who has made it."""
        if self._again:
            self._losses.clear()
        self._losses.append(loss.detach())
        if self._bad_losses():
            self._on_bad_loss()

    def step(self, optimizer: int) -> None:
        """End the replay at the guilty step."""
        self._steps += 1
        if self._again:
            if self.is_bad:
                raise Reached
        elif optimizer == self._failure.optimizer and self._steps > self._failure.steps_before:
            raise Reached

    def verdict(self, tracer: Tracer) -> Traced:
        """Return the birth that the first bad loss depends on, else the one of the bad gradients."""
        bad_losses, gradients = self._bad_losses(), self._bad_gradients()
        targets = bad_losses[:1] or gradients
        if not targets:
            return Traced()
        writers = [writer for target in targets for writer in tracer.record_of(target)]
        # A step on weights that are not finite proves nothing about its operations.
        found = tracer.bad_weights[:1] or births(writers)
        if not found:
            return Traced(is_bad=True, reason="the bad value was made by code that PyTorch's dispatcher does not see")
        return Traced(
            found[0],
            births=found,
            is_bad=True,
            loss_is_bad=bool(bad_losses),
            losses=[spelled(float(loss)) for loss in bad_losses],
            bad_gradients=len(gradients),
            gradients=sum(parameter.grad is not None for parameter in self._parameters()),
            anomaly_at=tracer.anomaly_at,
            operations=tracer.operations,
        )

    @property
    def loss_is_bad(self) -> bool:
        """Whether a loss is not finite."""
        return bool(self._bad_losses())

    @property
    def is_bad(self) -> bool:
        """Whether a loss or a gradient is not finite."""
        return bool(self._bad_losses() or self._bad_gradients())

    def _bad_losses(self) -> list[Tensor]:
        with _disable_current_modes():  # these looks are no operations of the step
            return [loss for loss in self._losses if special_of(loss)]

    def _bad_gradients(self) -> list[Tensor]:
        with _disable_current_modes():
            return [p.grad for p in self._parameters() if p.grad is not None and special_of(p.grad)]

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]


def _decisive(traced: Traced, is_bad_with: Callable[[Repair], bool]) -> Root | None:
    """Return the first of several births that makes the step bad all by itself, the others being repaired.

    Tensors are followed as wholes: where a benign NaN (a missing label that is indexed away) and a fault meet in one
    tensor, both are found.
    """
    groups = suspects(traced.births)[:MAX_SUSPECTS]
    if len(groups) == 1:
        return traced.root
    for group in groups:
        if is_bad_with(without(other for other in groups if other is not group)):
            return group[0]
    return traced.root


def _split(failure: Failure) -> tuple[list[Moment], list[Moment]]:
    """Return the moments up to the guilty one, which gets a batch of its own, and those after it."""
    moments, index = list(failure.moments), failure.guilty % len(failure.moments)
    moments[index] = moments[index]._replace(batch=copy_batch(moments[index].batch))
    return moments[: index + 1], moments[index + 1 :]


def _has_compiled() -> bool:
    """Whether anything has been compiled in this process: the replay has run it as it was written."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and bool(dynamo.counters["stats"]["unique_graphs"])


def _named(module: nn.Module, batch: object) -> dict[tuple[LeafKind, str], Tensor]:
    named: dict[tuple[LeafKind, str], Tensor] = {("batch", name): tensor for name, tensor in named_tensors(batch)}
    named |= {("parameter", name): parameter for name, parameter in module.named_parameters()}
    named |= {("buffer", name): buffer for name, buffer in module.named_buffers()}
    return named
