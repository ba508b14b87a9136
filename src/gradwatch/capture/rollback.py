"""Undo for optimizers that move the weights between two evaluations of their closure (LBFGS)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradwatch.replica.tensors import parameters_of

if TYPE_CHECKING:
    from torch.optim import Optimizer


def evaluates_again(optimizer: Optimizer) -> bool:
    """Whether one ``step`` of the optimizer calls its closure several times."""
    kind: Any = type(optimizer)  # without its type, which mypy takes for unhashable
    return _is_lbfgs(kind)


@cache
def _is_lbfgs(kind: type) -> bool:
    return any("LBFGS" in base.__name__ for base in kind.__mro__)


class Rollback:
    """Weights and optimizer state as they were before a step that evaluates its closure several times."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._parameters = parameters_of(optimizer)
        self._weights = [parameter.detach().clone() for parameter in self._parameters]
        self._state = {parameter: _copy(state) for parameter, state in optimizer.state.items()}

    def undo(self) -> None:
        """Put weights and state back."""
        with torch.no_grad():
            for parameter, saved in zip(self._parameters, self._weights, strict=True):
                parameter.copy_(saved)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value
