"""Modules that call an operation given to them: the same block is wrong or right by the operation it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable


class Operation(nn.Module):
    """A module without parameters around an operation of any number of inputs."""

    def __init__(self, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.op = op

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.op(*inputs)  # culprit: operation


class Dense(nn.Linear):
    """A linear layer by ``op(x, weight, bias)``."""

    def __init__(self, features: int, width: int, op: Callable[..., Tensor]) -> None:
        super().__init__(features, width)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x, self.weight, self.bias)  # culprit: dense


class Affine(nn.Module):
    """A normalisation by ``op(x, weight, bias)``, with weights away from one and zero."""

    def __init__(self, width: int, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.2 * torch.randn(width))
        self.bias = nn.Parameter(0.2 * torch.randn(width))
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x, self.weight, self.bias)  # culprit: affine


class Gated(nn.Module):
    """Two linear branches, joined by ``op(a, b)``."""

    def __init__(self, width: int, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.value = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(self.value(x), self.gate(x))  # culprit: gated


class Weighted(nn.Module):
    """``op(x, weight)`` with a weight of any shape."""

    def __init__(self, *shape: int, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x, self.weight)  # culprit: weighted


class BiasedScores(nn.Module):
    """Attention with a learned bias for each key, by ``op(scores, bias)``: scores of a sequence are square."""

    def __init__(self, length: int, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(length))
        self.op = op

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = self.op(q @ k.mT / q.shape[-1] ** 0.5, self.bias)  # culprit: biased-scores
        return scores.softmax(-1) @ v


class Cell(nn.Module):
    """A gated recurrent cell, called once a position; ``op`` squashes its gate."""

    def __init__(self, width: int, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, width)
        self.candidate = nn.Linear(2 * width, width)
        self.op = op

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        both = torch.cat([x, state], -1)
        keep = self.op(self.gate(both))  # culprit: cell
        return keep * state + (1 - keep) * self.candidate(both).tanh()


class Unrolled(nn.Module):
    """A recurrent layer that calls a cell position by position."""

    def __init__(self, width: int, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.cell = Cell(width, op)

    def forward(self, x: Tensor) -> Tensor:
        state, states = torch.zeros_like(x[:, 0]), []
        for position in x.unbind(1):
            state = self.cell(position, state)
            states.append(state)
        return torch.stack(states, 1)


class Between(nn.Module):
    """Two linear layers and, between them in the code of this module, ``op``."""

    def __init__(self, width: int, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.op(x)  # culprit: between
        return self.second(x)


class CalledTwice(nn.Module):
    """Two linear layers, and one module with ``op`` that is called after each of them."""

    def __init__(self, width: int, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.shared = Operation(op)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.second(self.shared(self.first(x))))
