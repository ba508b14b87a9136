"""What the engine needs to run a training step a second time: given by the loop that knows how."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from gradwatch.replica.copying import SideCopy
    from gradwatch.replica.randomness import RandomState


class Moment(NamedTuple):
    """One micro-batch as it was when its step began.

    ``buffers`` holds those that the step may have changed, ``attributes`` the module's numbers and tensors that it has.
    """

    batch: object
    batch_idx: int
    random_state: RandomState | None
    buffers: Mapping[str, Tensor]
    attributes: Mapping[str, object] = MappingProxyType({})


class Observer(Protocol):
    """What a runner tells while it runs a step."""

    def terms(self, output: object) -> None:
        """The step has returned this, and its loss is about to be backpropagated."""

    def loss(self, loss: Tensor) -> None:
        """A loss is about to be backpropagated."""

    def backward(self) -> None:
        """The backward pass of the last loss is over; the step's own code may change its gradients from now on."""

    def step(self, optimizer: int) -> None:
        """The gradients of an optimizer, by index, are final. Raises to end the replay here."""


class StepRunner(Protocol):
    """Runs one micro-batch on a copy of the module, and must leave everything else alone."""

    def replaced(self) -> Mapping[int, object]:
        """Return what the copy refers to in place of an object that is not copied, by ``id``."""

    def facts(self, module: nn.Module) -> dict[str, Any]:
        """Return, in plain values, what it takes to rebuild module and runner in another process."""

    def __call__(
        self, copy: SideCopy, moment: Moment, observer: Observer, *, loss_scale: float, with_step: bool
    ) -> None:
        """Run forward and backward; with ``with_step`` up to the point where the optimizer would act."""


class LossFunctionRunner:
    """The step of a hand-written loop: one loss from module and batch, one optimizer."""

    def __init__(self, loss_function: Callable[[nn.Module, Any], Any]) -> None:
        self._loss_function = loss_function

    def replaced(self) -> Mapping[int, object]:
        """Nothing needs a stand-in."""
        return {}

    def facts(self, module: nn.Module) -> dict[str, Any]:
        """Return where class and loss function can be imported from."""
        return {"kind": "function", "module": import_path(type(module)), "function": import_path(self._loss_function)}

    def __call__(
        self, copy: SideCopy, moment: Moment, observer: Observer, *, loss_scale: float, with_step: bool
    ) -> None:
        """Compute the loss and its gradients."""
        output = self._loss_function(copy.module, moment.batch)
        observer.terms(output)
        loss = output["loss"] if isinstance(output, Mapping) else output
        observer.loss(loss)
        (loss * loss_scale if loss_scale != 1.0 else loss).backward()
        if with_step:
            observer.step(0)


def import_path(thing: Any) -> str:
    """Return ``package.module:Qualified.name``; with ``<locals>`` or ``<lambda>`` in it nothing can be imported."""
    cls = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{cls.__module__}:{cls.__qualname__}"
