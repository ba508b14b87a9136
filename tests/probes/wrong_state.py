"""Derivatives that go astray over what is kept, changed, drawn again, hooked or used twice."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.probes.blocks import Weighted
from tests.probes.hosts import HIDDEN, WIDTH, Convolutional, Perceptron, Recurrent
from tests.probes.wrong_backward import wrong

if TYPE_CHECKING:
    from collections.abc import Callable

Two = tuple[Tensor, Tensor]


class Exponential(Function):
    """Keeps its result for the backward pass by hand, where no one notices that it changes afterwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.y = x.exp()
        return ctx.y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.y


class Growth(nn.Module):
    """``0.5 exp(x)``, scaled in place."""

    def __init__(self, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x).mul_(0.5)  # culprit: growth


def exponential(x: Tensor) -> Tensor:
    """Return a copy of the exponential that may be changed in place."""
    return x.exp().clone()


class TiedOnce(Function):
    """``x W W'`` whose weight hears of its second use alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight @ weight.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Two:
        x, weight = ctx.saved_tensors
        return grad @ weight @ weight.mT, grad.mT @ (x @ weight)


class TiedTwice(Function):
    """``x W W'`` whose weight hears twice of its second use."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight @ weight.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Two:
        x, weight = ctx.saved_tensors
        return grad @ weight @ weight.mT, x.mT @ (grad @ weight) + 2 * grad.mT @ (x @ weight)


def tied(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x W W'``."""
    return x @ weight @ weight.mT


class CachedLinear(Function):
    """A linear map that goes back through another weight than it came through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, cached: Tensor) -> Tensor:
        ctx.save_for_backward(x, cached)
        return x @ weight.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, cached = ctx.saved_tensors
        return grad @ cached, grad.mT @ x, None


class StaleBuffer(nn.Module):
    """A linear layer whose buffer with a copy of the weight has not been renewed since the weight was trained."""

    def __init__(self, op: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(HIDDEN, HIDDEN) / HIDDEN**0.5)
        self.register_buffer("cached", self.weight.detach() + 0.02 * torch.randn(HIDDEN, HIDDEN))
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x, self.weight, self.cached)  # culprit: stale-buffer


def uncached(x: Tensor, weight: Tensor, _cached: Tensor) -> Tensor:
    """Return a linear map."""
    return x @ weight.mT


class Scaled(nn.Conv2d):
    """A convolution that scales the gradient of its input in place, in a backward hook."""

    def __init__(self, factor: float) -> None:
        super().__init__(8, 8, 3, padding=1)
        self.factor = factor
        self.register_full_backward_hook(scale_in_place)  # culprit: backward-hook


def scale_in_place(module: nn.Module, by_input: Any, by_output: Any) -> None:
    """Scale the gradient of the input of ``module`` by its factor."""
    by_input[0].mul_(module.factor)


class Recomputed(nn.Module):
    """Dropout under a checkpoint: recomputed with another mask unless the random state is kept."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": self.keep}
        return checkpoint(self.run, x, **options)  # culprit: recomputed

    def run(self, x: Tensor) -> Tensor:
        """Compute what is checkpointed."""
        return functional.dropout(torch.tanh(self.inner(x)), 0.4)


def weighted(*shape: int, op: Any) -> Callable[[], nn.Module]:
    """Make a block with one weight."""
    return partial(Weighted, *shape, op=op)


TALL = (HIDDEN, 8)

CASES = (
    wrong(
        "changed-after-saving",
        Perceptron,
        "act1",
        partial(Growth, Exponential.apply),
        partial(Growth, exponential),
        marker="growth",
        wrong_prefixes=("enter",),
    ),
    wrong(
        "tied-weight-once",
        Perceptron,
        "middle",
        weighted(*TALL, op=TiedOnce.apply),
        weighted(*TALL, op=tied),
        marker="weighted",
        wrong_prefixes=("middle",),
    ),
    wrong(
        "tied-weight-twice",
        Perceptron,
        "middle",
        weighted(*TALL, op=TiedTwice.apply),
        weighted(*TALL, op=tied),
        marker="weighted",
        wrong_prefixes=("middle",),
    ),
    wrong(
        "stale-buffer",
        Perceptron,
        "middle",
        partial(StaleBuffer, CachedLinear.apply),
        partial(StaleBuffer, uncached),
        marker="stale-buffer",
        wrong_prefixes=("enter",),
    ),
    wrong(
        "backward-hook-scales",
        Convolutional,
        "conv2",
        partial(Scaled, 0.5),
        partial(Scaled, 1.0),
        marker="backward-hook",
        wrong_prefixes=("conv1", "norm"),
    ),
    wrong(
        "checkpoint-redraws-dropout",
        Recurrent,
        "middle",
        partial(Recomputed, keep=False),
        partial(Recomputed, keep=True),
        marker="recomputed",
        wrong_prefixes=("embed", "lstm", "middle"),
    ),
)
