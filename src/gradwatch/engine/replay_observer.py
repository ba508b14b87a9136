"""What a replay is told while a step runs again: it ends at the step that turned out bad, and judges it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from torch.utils._python_dispatch import _disable_current_modes

from gradwatch.capture.rollback import evaluates_again
from gradwatch.diagnosis.memory import special_of
from gradwatch.diagnosis.slicing import births
from gradwatch.diagnosis.verdict import Traced
from gradwatch.engine.evidence_gathering import spelled
from gradwatch.replica.tensors import parameters_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.optim import Optimizer

    from gradwatch.diagnosis.trace import Tracer
    from gradwatch.engine.failure import Failure


class Reached(Exception):  # noqa: N818 - the end of a replay, no fault
    """The optimizer step that turned out bad has been reached."""


def go_on() -> None:
    """A bad loss ends nothing: its backward pass is wanted, or other ranks wait in it."""


def end() -> NoReturn:
    """A bad loss is all that was to be found out."""
    raise Reached


class ReplayObserver:
    """Ends the replay at the step that turned out bad, and looks at its losses and gradients.

    Args:
        optimizer: the copy of the one whose step turned out bad.
        failure: the bad step.
        on_bad_loss: called at a loss that is not finite; may raise to end the replay there.
    """

    def __init__(self, optimizer: Optimizer, failure: Failure, on_bad_loss: Callable[[], None]) -> None:
        self._optimizer, self._failure, self._on_bad_loss = optimizer, failure, on_bad_loss
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

    def backward(self) -> None:
        """What the step's own code makes of the gradients is part of what is looked for."""

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
            gradients=sum(parameter.grad is not None for parameter in parameters_of(self._optimizer)),
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
            return [p.grad for p in parameters_of(self._optimizer) if p.grad is not None and special_of(p.grad)]
