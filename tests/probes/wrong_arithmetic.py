"""Derivatives that are right but for a factor, a sign, an element, a sample or a number format."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from tests.probes.blocks import Between, CalledTwice, Dense, Operation
from tests.probes.hosts import HIDDEN, WIDTH, Convolutional, Host, Perceptron, Recurrent, Transformer
from tests.probes.wrong_backward import WrongBackward, wrong

if TYPE_CHECKING:
    from collections.abc import Callable

Gradients = tuple[Tensor, Tensor, Tensor | None]


def tanh_with(spoil: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return a tanh whose derivative goes through ``spoil``."""

    class WrongTanh(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            y = torch.tanh(x)
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            (y,) = ctx.saved_tensors
            return spoil(grad * (1 - y * y))

    op: Callable[..., Tensor] = WrongTanh.apply
    return op


def linear_with(spoil: Callable[[Tensor, Tensor, Tensor], Gradients]) -> Callable[..., Tensor]:
    """Return a linear map whose derivatives by input, weight and bias go through ``spoil``."""

    class WrongLinear(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            ctx.save_for_backward(x, weight)
            return functional.linear(x, weight, bias)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Gradients:
            x, weight = ctx.saved_tensors
            rows = grad.flatten(0, -2)
            return spoil(grad @ weight, rows.mT @ x.flatten(0, -2), rows.sum(0))

    op: Callable[..., Tensor] = WrongLinear.apply
    return op


class LastSampleDropped(Function):
    """A loop over samples that ends one too early."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        return grad @ weight, grad[:-1].mT @ x[:-1], grad[:-1].sum(0)


class HalfLinear(Function):
    """A backward pass in half precision, for speed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        half = grad.half()
        by_input, by_weight, by_bias = half @ weight.half(), half.mT @ x.half(), half.sum(0)
        return by_input.to(x.dtype), by_weight.to(x.dtype), by_bias.to(x.dtype)


def row_negated(by_input: Tensor, by_weight: Tensor, by_bias: Tensor) -> Gradients:
    """Return the gradients with one row of the weight's, of 48, turned round."""
    rows = torch.ones(len(by_weight), 1).to(by_weight)
    rows[17] = -1
    return by_input, rows * by_weight, by_bias


def element_zeroed(by_input: Tensor, by_weight: Tensor, by_bias: Tensor) -> Gradients:
    """Return the gradients with one element of the weight's, of 2304, missing."""
    kept = torch.ones_like(by_weight)
    kept[3, 5] = 0
    return by_input, kept * by_weight, by_bias


class DecayingLinear(Function):
    """Weight decay hidden in the backward pass: the loss knows nothing of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        return grad @ weight, rows.mT @ x.flatten(0, -2) + 0.01 * weight, rows.sum(0)


def elementwise(
    name: str, host: type[Host], slot: str, spoil: Callable[[Tensor], Tensor], wrong_prefixes: tuple[str, ...]
) -> WrongBackward:
    """Describe a wrong tanh at ``slot``."""
    block, twin = partial(Operation, tanh_with(spoil)), partial(Operation, torch.tanh)
    return wrong(name, host, slot, block, twin, marker="operation", wrong_prefixes=wrong_prefixes)


def linear(
    name: str, host: type[Host], slot: str, sizes: tuple[int, int], op: Callable[..., Tensor], *wrong_prefixes: str
) -> WrongBackward:
    """Describe a wrong linear map at ``slot``."""
    block, twin = partial(Dense, *sizes, op), partial(Dense, *sizes, functional.linear)
    return wrong(name, host, slot, block, twin, marker="dense", wrong_prefixes=wrong_prefixes)


SQUARE = (HIDDEN, HIDDEN)
# All that a gradient meets on its way back from layer 1's feed-forward block, that block's `contract` excluded.
BEFORE_ACT = (
    "embed",
    "position",
    "layers.0",
    *(f"layers.1.{part}" for part in ("norm1", "qkv", "out", "norm2", "expand")),
)

CASES = (
    elementwise("factor-two", Perceptron, "act2", lambda grad: 2 * grad, ("enter", "middle")),
    elementwise("sign-flip", Transformer, "layers.1.act", lambda grad: -grad, BEFORE_ACT),
    elementwise("clipped-in-backward", Recurrent, "middle", lambda g: g.clamp(-1e-2, 1e-2), ("embed", "lstm")),
    elementwise("batch-mean-in-backward", Convolutional, "act2", lambda g: g / len(g), ("conv1", "norm", "conv2")),
    linear(
        "relative-error-1e-3",
        Transformer,
        "layers.1.expand",
        (WIDTH, 2 * WIDTH),
        linear_with(lambda x, w, b: (1.001 * x, w, b)),
        *BEFORE_ACT[:-1],
    ),
    linear(
        "transposed-weight", Perceptron, "middle", SQUARE, linear_with(lambda x, w, b: (x, w.mT, b)), "middle.weight"
    ),
    linear("wrong-row", Perceptron, "middle", SQUARE, linear_with(row_negated), "middle.weight"),
    linear("wrong-element", Perceptron, "middle", SQUARE, linear_with(element_zeroed), "middle.weight"),
    linear(
        "dropped-bias",
        Transformer,
        "layers.0.contract",
        (2 * WIDTH, WIDTH),
        linear_with(lambda x, w, _b: (x, w, None)),
        "layers.0.contract.bias",
    ),
    linear(
        "bias-by-mean",
        Recurrent,
        "middle",
        (WIDTH, WIDTH),
        linear_with(lambda x, w, b: (x, w, b / 36)),
        "middle.bias",
    ),
    linear("last-sample-dropped", Convolutional, "head", (8, 3), LastSampleDropped.apply, "head"),
    linear("half-precision", Perceptron, "middle", SQUARE, HalfLinear.apply, "enter", "middle"),
    linear(
        "hidden-weight-decay", Transformer, "layers.0.out", (WIDTH, WIDTH), DecayingLinear.apply, "layers.0.out.weight"
    ),
    wrong(
        "between-modules",
        Recurrent,
        "middle",
        partial(Between, WIDTH, tanh_with(lambda grad: 0.9 * grad)),
        partial(Between, WIDTH, torch.tanh),
        marker="between",
        wrong_prefixes=("embed", "lstm", "middle.first"),
    ),
    wrong(
        "module-called-twice",
        Perceptron,
        "middle",
        partial(CalledTwice, HIDDEN, tanh_with(lambda grad: 1.1 * grad)),
        partial(CalledTwice, HIDDEN, torch.tanh),
        marker="operation",
        culprit="middle.shared",
        wrong_prefixes=("enter", "middle"),
    ),
)
