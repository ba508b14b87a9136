"""Derivatives that look at the wrong dimension, index, border or tensor."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

from tests.probes.blocks import Affine, BiasedScores, Operation, Weighted
from tests.probes.hosts import LENGTH, WIDTH, WORDS, Convolutional, Recurrent, Transformer
from tests.probes.wrong_backward import wrong

if TYPE_CHECKING:
    from collections.abc import Callable

Two = tuple[Tensor, Tensor]


class ReplicatePadding(Function):
    """A convolution that pads with zeros, and in the backward pass of its weight with the values at the border."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Two:
        x, weight = ctx.saved_tensors
        padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        by_weight = conv2d_weight(padded, list(weight.shape), grad)  # type: ignore[no-untyped-call]
        return conv2d_input(list(x.shape), weight, grad, padding=1), by_weight  # type: ignore[no-untyped-call]


class UnflippedKernel(Function):
    """A convolution whose input's derivative correlates with the kernel as it stands, not turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return functional.conv2d(x, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Two:
        x, weight = ctx.saved_tensors
        by_weight = conv2d_weight(x, list(weight.shape), grad, padding=1)  # type: ignore[no-untyped-call]
        return functional.conv2d(grad, weight.transpose(0, 1), padding=1), by_weight


class WrongDimension(Function):
    """A bias per key whose gradient is summed over keys, not over queries: the shapes agree."""

    @staticmethod
    def forward(_ctx: Any, scores: Tensor, bias: Tensor) -> Tensor:
        return scores + bias

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Two:
        return grad, grad.sum((0, 2))


class MaskOfWrongTensor(Function):
    """A fused bias and ReLU whose mask looks at the input without the bias, and lets zeros through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.relu(x * weight[:, None, None] + bias[:, None, None])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        passed = grad * (x >= 0)
        return passed * weight[:, None, None], (passed * x).sum((0, 2, 3)), passed.sum((0, 2, 3))


def scaled_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what :class:`MaskOfWrongTensor` computes."""
    return torch.relu(x * weight[:, None, None] + bias[:, None, None])


class ShiftedCumsum(Function):
    """A running sum whose backward pass starts one position too late."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.cumsum(1)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:
        return grad.flip(1).cumsum(1).flip(1) - grad


class Unconjugated(Function):
    """A product with a complex filter; the derivative forgets to conjugate the filter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return filtered(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Two:
        x, weight = ctx.saved_tensors
        spectrum, n = torch.fft.rfft(grad), x.shape[-1]
        by_input = torch.fft.irfft(spectrum * torch.view_as_complex(weight), n)
        # Each inner frequency stands for itself and for its mirror image.
        counted = torch.full((n // 2 + 1,), 2.0).to(x)
        counted[0] = counted[-1] = 1
        by_filter = (torch.fft.rfft(x).conj() * spectrum).flatten(0, -2).sum(0) * counted / n
        return by_input, torch.view_as_real(by_filter)


def filtered(x: Tensor, weight: Tensor) -> Tensor:
    """Filter the last dimension: real in, complex between, real out."""
    return torch.fft.irfft(torch.fft.rfft(x) * torch.view_as_complex(weight), x.shape[-1])


class RepeatsIgnored(Function):
    """An embedding whose gradient keeps the last of a word's occurrences."""

    @staticmethod
    def forward(ctx: Any, words: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(words)
        ctx.shape = weight.shape
        return functional.embedding(words, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (words,) = ctx.saved_tensors
        by_weight = grad.new_zeros(ctx.shape)
        for word, row in zip(words.flatten().tolist(), grad.flatten(0, -2), strict=True):
            by_weight[word] = row
        return None, by_weight


class AllCounted(Function):
    """A mean over the first four of six positions, whose derivative divides by all six."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.length = x.shape[1]
        return x[:, :4].sum(1) / 4

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        spread = (grad / ctx.length)[:, None].expand(-1, 4, -1)
        return functional.pad(spread, (0, 0, 0, ctx.length - 4))


def mean_of_four(x: Tensor) -> Tensor:
    """Return the mean over the first four positions."""
    return x[:, :4].sum(1) / 4


def convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Return a convolution of the same size."""
    return functional.conv2d(x, weight, padding=1)


def weighted(*shape: int, op: Any) -> Callable[[], nn.Module]:
    """Make a block with one weight."""
    return partial(Weighted, *shape, op=op)


KERNEL, FILTER = (8, 8, 3, 3), (WIDTH // 2 + 1, 2)

CASES = (
    wrong(
        "conv-padding",
        Convolutional,
        "conv2",
        weighted(*KERNEL, op=ReplicatePadding.apply),
        weighted(*KERNEL, op=convolution),
        marker="weighted",
        wrong_prefixes=("conv2.weight",),
    ),
    wrong(
        "conv-kernel-unflipped",
        Convolutional,
        "conv2",
        weighted(*KERNEL, op=UnflippedKernel.apply),
        weighted(*KERNEL, op=convolution),
        marker="weighted",
        wrong_prefixes=("conv1", "norm"),
    ),
    wrong(
        "bias-over-wrong-dimension",
        Transformer,
        "layers.0.core",
        partial(BiasedScores, LENGTH, WrongDimension.apply),
        partial(BiasedScores, LENGTH, torch.add),
        marker="biased-scores",
        wrong_prefixes=("layers.0.core.bias",),
    ),
    wrong(
        "mask-of-wrong-tensor",
        Convolutional,
        "act2",
        partial(Affine, 8, MaskOfWrongTensor.apply),
        partial(Affine, 8, scaled_relu),
        marker="affine",
        wrong_prefixes=("conv1", "norm", "conv2", "act2"),
    ),
    wrong(
        "cumsum-shifted",
        Recurrent,
        "middle",
        partial(Operation, ShiftedCumsum.apply),
        partial(Operation, partial(torch.cumsum, dim=1)),
        marker="operation",
        wrong_prefixes=("embed", "lstm"),
    ),
    wrong(
        "filter-unconjugated",
        Recurrent,
        "middle",
        weighted(*FILTER, op=Unconjugated.apply),
        weighted(*FILTER, op=filtered),
        marker="weighted",
        wrong_prefixes=("embed", "lstm"),
    ),
    wrong(
        "embedding-ignores-repeats",
        Transformer,
        "embed",
        weighted(WORDS, WIDTH, op=RepeatsIgnored.apply),
        weighted(WORDS, WIDTH, op=functional.embedding),
        marker="weighted",
        wrong_prefixes=("embed",),
    ),
    wrong(
        "mean-counts-padding",
        Recurrent,
        "pool",
        partial(Operation, AllCounted.apply),
        partial(Operation, mean_of_four),
        marker="operation",
        wrong_prefixes=("embed", "lstm"),
    ),
)
