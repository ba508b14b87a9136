"""Derivatives by a wrong formula: a term, a factor or a mask of the right one is missing, or taken from elsewhere."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from tests.probes.blocks import Gated, Operation, Unrolled
from tests.probes.hosts import WIDTH, Convolutional, Host, Perceptron, Recurrent, Transformer
from tests.probes.wrong_backward import WrongBackward, wrong

if TYPE_CHECKING:
    from collections.abc import Callable

Three = tuple[Tensor, Tensor, Tensor]


class TanhGelu(Function):
    """The exact GELU, with the derivative of its approximation by tanh."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.gelu(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        c = math.sqrt(2 / math.pi)
        t = torch.tanh(c * (x + 0.044715 * x**3))
        return grad * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x))


class LeakyClamp(Function):
    """A clamp that lets gradients through where it clamps."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(-0.3, 0.3)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Product(Function):
    """``x * y``, which saves x twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, x)
        return x * y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return grad * y, grad * x


class DetachedGate(Function):
    """A product whose gate is detached inside of the forward pass: its branch learns nothing."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gate: Tensor) -> Tensor:
        factor = gate.detach().sigmoid()
        ctx.save_for_backward(factor)
        return value * factor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor, None


def gate(value: Tensor, gate: Tensor) -> Tensor:
    """Return the product that :class:`DetachedGate` computes."""
    return value * gate.sigmoid()


class HalfSigmoid(Function):
    """A sigmoid whose derivative forgets the factor ``1 - s``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        s = torch.sigmoid(x)
        ctx.save_for_backward(s)
        return s

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (s,) = ctx.saved_tensors
        return grad * s


class ForgottenSkip(Function):
    """``x + tanh(x)``, whose backward pass knows the branch alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x + torch.tanh(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (1 - torch.tanh(x) ** 2)


def residual_tanh(x: Tensor) -> Tensor:
    """Return what :class:`ForgottenSkip` computes."""
    return x + torch.tanh(x)


class UnprojectedNormalise(Function):
    """Vectors of length one; the derivative keeps the part along the vector."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = x.square().sum(-1, keepdim=True).sqrt()
        ctx.save_for_backward(length)
        return x / length

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (length,) = ctx.saved_tensors
        return grad / length


def normalise(x: Tensor) -> Tensor:
    """Return vectors of length one."""
    return x / x.square().sum(-1, keepdim=True).sqrt()


class MaxOfLogSumExp(Function):
    """A smooth maximum over positions with the derivative of the hard one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.logsumexp(x, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), grad[:, None])


def log_sum_exp(x: Tensor) -> Tensor:
    """Return the smooth maximum over positions."""
    return torch.logsumexp(x, 1)


class SummedSquares(Function):
    """A mean squared error with the derivative of the summed one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return (x - y).square().mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        return grad * 2 * (x - y), None


def mean_squares(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared error."""
    return (x - y).square().mean()


def plain(
    name: str, host: type[Host], slot: str, op: Any, twin: Callable[..., Tensor], *wrong_prefixes: str
) -> WrongBackward:
    """Describe a wrong operation without parameters at ``slot``."""
    return wrong(
        name,
        host,
        slot,
        partial(Operation, op),
        partial(Operation, twin),
        marker="operation",
        wrong_prefixes=wrong_prefixes,
    )


def gated(name: str, op: Any, twin: Callable[..., Tensor], *wrong_prefixes: str) -> WrongBackward:
    """Describe a wrong product of two branches in the middle of a recurrent net."""
    return wrong(
        name,
        Recurrent,
        "middle",
        partial(Gated, WIDTH, op),
        partial(Gated, WIDTH, twin),
        marker="gated",
        wrong_prefixes=wrong_prefixes,
    )


FIRST = ("embed", "position")
BEFORE_LAYER_1 = (*FIRST, "layers.0")
BEFORE_CORE = (*BEFORE_LAYER_1, "layers.1.norm1", "layers.1.qkv")
BEFORE_NORM2 = (*BEFORE_CORE, "layers.1.out")

CASES = (
    plain(
        "tanh-gelu-for-erf-gelu",
        Transformer,
        "layers.1.act",
        TanhGelu.apply,
        functional.gelu,
        *BEFORE_NORM2,
        "layers.1.norm2",
        "layers.1.expand",
    ),
    plain(
        "clamp-lets-through",
        Perceptron,
        "act2",
        LeakyClamp.apply,
        partial(torch.clamp, min=-0.3, max=0.3),
        "enter",
        "middle",
    ),
    gated("saved-twice", Product.apply, torch.mul, "embed", "lstm", "middle.value"),
    gated("detached-in-forward", DetachedGate.apply, gate, "embed", "lstm", "middle.gate"),
    wrong(
        "sigmoid-slope-in-a-cell",
        Recurrent,
        "middle",
        partial(Unrolled, WIDTH, HalfSigmoid.apply),
        partial(Unrolled, WIDTH, torch.sigmoid),
        marker="cell",
        culprit="middle.cell",
        # What the candidate receives passes through the gates of later positions.
        wrong_prefixes=("embed", "lstm", "middle"),
    ),
    plain("forgotten-skip", Convolutional, "act2", ForgottenSkip.apply, residual_tanh, "conv1", "norm", "conv2"),
    plain("unprojected-normalise", Recurrent, "middle", UnprojectedNormalise.apply, normalise, "embed", "lstm"),
    plain("max-for-logsumexp", Recurrent, "pool", MaxOfLogSumExp.apply, log_sum_exp, "embed", "lstm"),
    plain(
        "sum-for-mean-in-the-loss",
        Perceptron,
        "criterion",
        SummedSquares.apply,
        mean_squares,
        "enter",
        "middle",
        "leave",
    ),
)
