"""What a step differentiates: each loss that it backpropagates, and each term of a loss that it returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeGuard

from torch import Tensor

from gradwatch.tracing.autograd_internals import leaves_of
from gradwatch.tracing.function_mode import unseen

if TYPE_CHECKING:
    from gradwatch.replica.copying import SideCopy

LOSS = "loss"


class Objective(NamedTuple):
    """A scalar of the step.

    ``gradients`` has those parameters that got one, by name; ``active`` are the names of all that required one when
    the scalar was backpropagated: others were switched off on purpose.
    """

    name: str
    value: float
    gradients: Mapping[str, Tensor]
    active: frozenset[str]


class NoLossError(RuntimeError):
    """What the step backpropagates is nothing to take a derivative of."""


class EnoughError(Exception):
    """All scalars that were asked for are known: nothing of the step is needed any more."""


class Objectives:
    """Collects the objectives of one run of a step; an ``Observer``.

    Args:
        named: the original parameters by name.
        stop_after: how many scalars are wanted, without gradients; None runs the whole step, with gradients.
    """

    def __init__(self, named: Mapping[str, Tensor], stop_after: int | None = None) -> None:
        self.found: list[Objective] = []
        self._named, self._stop_after = named, stop_after
        self.copies: dict[str, Tensor] = {}
        self._losses = 0
        self._aside: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._complete = False

    def begin(self, copy: SideCopy) -> None:
        """Learn which copies stand for the parameters."""
        self.copies = {name: copy.parameter_of(parameter) for name, parameter in self._named.items()}

    def terms(self, output: object) -> None:
        """Look for terms in what the step has returned: scalars with a graph, beside the loss itself."""
        if not isinstance(output, Mapping):
            return
        loss = output.get(LOSS)
        for name, term in output.items():
            if name != LOSS and term is not loss and _is_term(term):
                self._add(str(name), term)
                if self._stop_after is None:
                    term.backward(retain_graph=True)  # type: ignore[no-untyped-call]

    def loss(self, loss: Tensor) -> None:
        """Take a loss that is about to be backpropagated.

        Raises:
            NoLossError: it is no scalar, or has no graph.
        """
        if not isinstance(loss, Tensor):
            raise NoLossError(f"the loss is a {type(loss).__name__}, and must be a tensor")
        if loss.numel() != 1:
            raise NoLossError(f"the loss has the shape {tuple(loss.shape)}, and must be a scalar")
        if self._stop_after is None and not loss.requires_grad:
            raise NoLossError("the loss depends on no weight, or has been detached: no gradient can flow from it")
        self._losses += 1
        self._add(LOSS if self._losses == 1 else f"loss {self._losses}", loss)

    def backward(self) -> None:
        """Keep the gradients as they are; clipping by the step itself is no derivative."""
        with unseen():
            found = {name: copied.grad.clone() for name, copied in self.copies.items() if copied.grad is not None}
        self._add_gradients(found)
        self._complete = True

    def step(self, optimizer: int) -> None:  # noqa: ARG002 - as Observer has it
        """The optimizer has all its gradients; what the step does to them from now on is no derivative."""
        self._take_gradients()

    def finish(self) -> list[Objective]:
        """Return the objectives, with the gradients of the last one."""
        self._take_gradients()
        return self.found

    def give_back(self) -> None:
        """Give tensors from outside of the copy, which a loss may refer to, the gradients that they had."""
        for tensor, gradient in self._aside.values():
            tensor.grad = gradient

    def _add(self, name: str, value: Tensor) -> None:
        self._take_gradients()
        if self._stop_after is None:
            self._set_aside(value)
        with unseen():
            active = frozenset(key for key, copied in self.copies.items() if copied.requires_grad)
            self.found.append(Objective(name, float(value.detach()), {}, active))
        if self._stop_after is not None and len(self.found) >= self._stop_after:
            _enough()

    def _set_aside(self, value: Tensor) -> None:
        own = set(map(id, self.copies.values()))
        with unseen():
            for leaf in leaves_of(value):
                if id(leaf) not in own and id(leaf) not in self._aside:
                    self._aside[id(leaf)] = (leaf, leaf.grad)
                    leaf.grad = None  # else the backward pass adds to it in place

    def _take_gradients(self) -> None:
        """Move what has accumulated since the last objective to it."""
        with unseen():
            found = {name: copied.grad for name, copied in self.copies.items() if copied.grad is not None}
            for name in found:
                self.copies[name].grad = None
        if not self._complete:
            self._add_gradients(found)
        self._complete = False

    def _add_gradients(self, found: Mapping[str, Tensor]) -> None:
        if self.found and found:
            self.found[-1] = self.found[-1]._replace(gradients={**self.found[-1].gradients, **found})


def _is_term(value: object) -> TypeGuard[Tensor]:
    if not isinstance(value, Tensor) or value.numel() != 1:
        return False
    return value.requires_grad and value.is_floating_point()


def _enough() -> NoReturn:
    raise EnoughError
