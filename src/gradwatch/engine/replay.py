"""The replay: a bad step once more, on a copy that training cannot notice, traced to the birth of the bad value."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, NamedTuple

import torch

from gradwatch.capture.batch import named_tensors
from gradwatch.capture.rollback import evaluates_again
from gradwatch.diagnosis.guard import CommunicationNeeded, GuardMode, StepGuard
from gradwatch.diagnosis.memory import Memory, special_of
from gradwatch.diagnosis.module_stack import ModuleStack
from gradwatch.diagnosis.slicing import first_birth
from gradwatch.diagnosis.trace import StopAtBirth, Tracer
from gradwatch.diagnosis.verdict import Traced
from gradwatch.engine.evidence_gathering import spelled
from gradwatch.replica import randomness
from gradwatch.replica.batches import copy_batch
from gradwatch.replica.copying import side_copy
from gradwatch.replica.memory import bytes_needed, fits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from gradwatch.diagnosis.memory import LeafKind
    from gradwatch.engine.step_runner import Moment, StepRunner
    from gradwatch.replica.copying import SideCopy

log = logging.getLogger("gradwatch")


class Reached(Exception):  # noqa: N818 - the end of a replay, no fault
    """The optimizer step that turned out bad has been reached."""


class Failure(NamedTuple):
    """A bad step, with what it takes to run it again.

    ``moments`` are the micro-batches from the first of the accumulation window to the guilty one. ``steps_before``:
    how many optimizer steps the guilty batch had already made (in manual optimization); they are not made again, since
    the weights have them. ``with_step``: whether the optimizer acted on the guilty micro-batch itself. ``born``: names
    of weights and buffers that were finite once, so that an infinity in them is no mask.
    """

    moments: Sequence[Moment]
    optimizer: int
    steps_before: int = 0
    with_step: bool = True
    loss_scale: float = 1.0
    born: frozenset[str] = frozenset()


class Replayer:
    """Runs bad steps of one module again."""

    def __init__(self, module: nn.Module, optimizers: Sequence[Optimizer], runner: StepRunner) -> None:
        self._module, self._optimizers, self._runner = module, optimizers, runner

    def trace(self, failure: Failure) -> Traced:
        """Return where the bad value was born. Nothing raises: what hinders the replay is the ``reason``.

        The guilty micro-batch runs first alone. If that comes out finite, the whole accumulation window follows, whose
        gradients may be bad in their sum alone; it is the second attempt before a value counts as not reproduced.
        """
        share_weights = False
        if not self._fits(share_weights=False):
            if not self._fits(share_weights=True):
                return Traced(reason="a copy of the module would not fit into the free memory")
            share_weights = True
        for moments in (failure.moments[-1:], failure.moments):
            traced = self._attempt(failure._replace(moments=moments), share_weights=share_weights)
            if traced.root is not None or traced.reason is not None:
                return traced
        return Traced()

    def is_bad(self, failure: Failure) -> bool:
        """Whether the step comes out non-finite again: once, without a trace."""
        return self._fits(share_weights=False) and self._attempt(failure, share_weights=False, trace=False).is_bad

    def trace_together(self, failure: Failure) -> Traced:
        """Run a step that communicates again, on all ranks at once and from the beginning of the window."""
        return self._attempt(failure, may_communicate=True)

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
        may_communicate: bool = False,
        stop_at: int | None = None,
    ) -> Traced:
        again = evaluates_again(self._optimizers[failure.optimizer])
        try:
            with _unnoticed(self._module):
                copy = side_copy(
                    self._module,
                    self._optimizers,
                    replaced=self._runner.replaced(),
                    share_weights=share_weights,
                    with_optimizer_state=again,
                )
                guard = StepGuard(
                    may_communicate=may_communicate, shared=list(copy.module.parameters()) if share_weights else []
                )
                return self._run(copy, failure, guard, trace=trace, stop_at=stop_at)
        except StopAtBirth:
            raise
        except CommunicationNeeded as needed:
            return Traced(reason=f"the step communicates between the ranks ({needed})", communicates=True)
        except Exception as error:
            log.debug("gradwatch: the replay failed", exc_info=True)
            return Traced(reason=f"running the step again failed with {type(error).__name__}: {error}")

    def _run(self, copy: SideCopy, failure: Failure, guard: StepGuard, *, trace: bool, stop_at: int | None) -> Traced:
        *earlier, guilty = failure.moments
        moments = [*earlier, guilty._replace(batch=copy_batch(guilty.batch))]
        set_buffers(copy.module, moments[0].buffers)
        modules = ModuleStack(copy.module)
        memory = Memory(_named(copy.module, moments[-1].batch), born=failure.born)
        tracer = Tracer(modules, memory, guard, stop_at=stop_at)
        observer = ReplayObserver(copy, failure)
        with guard, contextlib.ExitStack() as entered:
            if trace:
                entered.enter_context(modules)
                entered.enter_context(torch.autograd.set_detect_anomaly(True, check_nan=False))
            entered.enter_context(tracer if trace else GuardMode(guard))
            self._run_moments(copy, moments, failure, observer)
        return observer.verdict(tracer) if trace else Traced(is_bad=observer.is_bad)

    def _run_moments(
        self, copy: SideCopy, moments: Sequence[Moment], failure: Failure, observer: ReplayObserver
    ) -> None:
        generators = randomness.generators_in(copy.module)
        for moment in moments:
            if moment.random_state is not None:
                randomness.restore(moment.random_state, generators)
            with_step = failure.with_step and moment is moments[-1]
            with contextlib.suppress(Reached):
                self._runner(copy, moment, observer, loss_scale=failure.loss_scale, with_step=with_step)


class ReplayObserver:
    """Ends the replay at the step that turned out bad, and looks at its losses and gradients."""

    def __init__(self, copy: SideCopy, failure: Failure) -> None:
        self._copy, self._failure = copy, failure
        self._optimizer = copy.optimizers[failure.optimizer]
        self._again = evaluates_again(self._optimizer)
        self._losses: list[Tensor] = []
        self._steps = 0

    def loss(self, loss: Tensor) -> None:
        """Keep a loss: its storage says who has made it."""
        if self._again:
            self._losses.clear()
        self._losses.append(loss.detach())

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
        root = tracer.bad_weights[0] if tracer.bad_weights else first_birth(writers)
        if root is None:
            return Traced(reason="the bad value was made by code that PyTorch's dispatcher does not see")
        return Traced(
            root,
            is_bad=True,
            loss_is_bad=bool(bad_losses),
            losses=[spelled(float(loss)) for loss in bad_losses],
            bad_gradients=len(gradients),
            gradients=sum(parameter.grad is not None for parameter in self._parameters()),
            anomaly=tracer.anomaly,
            operations=tracer.operations,
        )

    @property
    def is_bad(self) -> bool:
        """Whether a loss or a gradient is not finite."""
        return bool(self._bad_losses() or self._bad_gradients())

    def _bad_losses(self) -> list[Tensor]:
        return [loss for loss in self._losses if special_of(loss)]

    def _bad_gradients(self) -> list[Tensor]:
        return [p.grad for p in self._parameters() if p.grad is not None and special_of(p.grad)]

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]


def set_buffers(module: nn.Module, values: object) -> None:
    """Give the buffers of a copy the values that they had before the step."""
    for name, value in dict(values).items():  # type: ignore[call-overload]
        owner, _, key = name.rpartition(".")
        module.get_submodule(owner)._buffers[key] = value.detach().clone()  # noqa: SLF001 - as in BufferGuard


@contextlib.contextmanager
def _unnoticed(module: nn.Module) -> Iterator[None]:
    """Keep the replay's random numbers, warnings and prints to itself."""
    with (
        randomness.preserved(randomness.generators_in(module)),
        torch.enable_grad(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        _eager(),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _eager() -> Iterator[None]:
    """Run compiled functions as they were written: inside a compiled kernel there is no operation to name."""
    from torch.compiler import set_stance  # noqa: PLC0415 - imports the compiler

    with set_stance("force_eager"):
        yield


def _named(module: nn.Module, batch: object) -> dict[tuple[LeafKind, str], Tensor]:
    named: dict[tuple[LeafKind, str], Tensor] = {("batch", name): tensor for name, tensor in named_tensors(batch)}
    named |= {("parameter", name): parameter for name, parameter in module.named_parameters()}
    named |= {("buffer", name): buffer for name, buffer in module.named_buffers()}
    return named
