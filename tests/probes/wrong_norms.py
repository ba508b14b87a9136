"""Normalisations and attention whose derivatives lack a term or a factor."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.autograd import Function

from tests.probes.blocks import Affine, Operation
from tests.probes.hosts import WIDTH, Convolutional, Host, Transformer
from tests.probes.wrong_backward import WrongBackward, wrong

if TYPE_CHECKING:
    from collections.abc import Callable

Three = tuple[Tensor, Tensor, Tensor]


class UnscaledLayerNorm(Function):
    """A layer norm whose backward pass subtracts the mean and forgets how the deviation depends on the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y, normal, scale = layer_norm_parts(x, weight, bias)
        ctx.save_for_backward(normal, scale, weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Three:
        normal, scale, weight = ctx.saved_tensors
        by_normal = grad * weight
        by_input = scale * (by_normal - by_normal.mean(-1, keepdim=True))
        return by_input, (grad * normal).flatten(0, -2).sum(0), grad.flatten(0, -2).sum(0)


class UncentredLayerNorm(Function):
    """A layer norm whose backward pass forgets how the mean depends on the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y, normal, scale = layer_norm_parts(x, weight, bias)
        ctx.save_for_backward(normal, scale, weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Three:
        normal, scale, weight = ctx.saved_tensors
        by_normal = grad * weight
        by_input = scale * (by_normal - normal * (by_normal * normal).mean(-1, keepdim=True))
        return by_input, (grad * normal).flatten(0, -2).sum(0), grad.flatten(0, -2).sum(0)


def layer_norm_parts(x: Tensor, weight: Tensor, bias: Tensor) -> Three:
    """Return the layer norm of ``x``, the normalised input and one over its deviation."""
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    normal = centred * scale
    return normal * weight + bias, normal, scale


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the layer norm of ``x``."""
    return layer_norm_parts(x, weight, bias)[0]


def channels(values: Tensor) -> Tensor:
    """Return a value per channel in a shape that fits images."""
    return values[:, None, None]


def batch_norm_parts(x: Tensor, weight: Tensor, bias: Tensor) -> Three:
    """Return the batch norm of images, the normalised input and one over the deviation of each channel."""
    centred = x - x.mean((0, 2, 3), keepdim=True)
    scale = (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).rsqrt()
    normal = centred * scale
    return normal * channels(weight) + channels(bias), normal, scale


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the batch norm of images."""
    return batch_norm_parts(x, weight, bias)[0]


class ConstantStatistics(Function):
    """A batch norm whose backward pass treats the statistics of the batch as constants."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y, normal, scale = batch_norm_parts(x, weight, bias)
        ctx.save_for_backward(normal, scale, weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Three:
        normal, scale, weight = ctx.saved_tensors
        return grad * channels(weight) * scale, (grad * normal).sum((0, 2, 3)), grad.sum((0, 2, 3))


class DiagonalSoftmaxAttention(Function):
    """Attention whose softmax has the derivative ``p g``, without ``- p sum(p g)``."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        p = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        ctx.save_for_backward(q, k, v, p)
        return p @ v

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Three:
        q, k, v, p = ctx.saved_tensors
        by_scores = p * (grad @ v.mT) / math.sqrt(q.shape[-1])
        return by_scores @ k, by_scores.mT @ q, p.mT @ grad


class UnscaledAttention(Function):
    """Attention whose backward pass forgets ``1 / sqrt(d)``."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        p = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        ctx.save_for_backward(q, k, v, p)
        return p @ v

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Three:
        q, k, v, p = ctx.saved_tensors
        by_p = grad @ v.mT
        by_scores = p * (by_p - (p * by_p).sum(-1, keepdim=True))
        return by_scores @ k, by_scores.mT @ q, p.mT @ grad


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return scaled dot-product attention."""
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def attends(name: str, slot: str, op: Any, *wrong_prefixes: str) -> WrongBackward:
    """Describe wrong attention at ``slot``."""
    block, twin = partial(Operation, op), partial(Operation, attention)
    return wrong(name, Transformer, slot, block, twin, marker="operation", wrong_prefixes=wrong_prefixes)


def affine(
    name: str, host: type[Host], slot: str, ops: tuple[Any, Callable[..., Tensor]], *wrong_prefixes: str, width: int
) -> WrongBackward:
    """Describe a wrong normalisation at ``slot``."""
    return wrong(
        name,
        host,
        slot,
        partial(Affine, width, ops[0]),
        partial(Affine, width, ops[1]),
        marker="affine",
        wrong_prefixes=wrong_prefixes,
    )


FIRST = ("embed", "position")
BEFORE_LAYER_1 = (*FIRST, "layers.0")
BEFORE_CORE = (*BEFORE_LAYER_1, "layers.1.norm1", "layers.1.qkv")
BEFORE_NORM2 = (*BEFORE_CORE, "layers.1.out")

CASES = (
    affine(
        "layer-norm-deviation",
        Transformer,
        "layers.1.norm2",
        (UnscaledLayerNorm.apply, layer_norm),
        *BEFORE_NORM2,
        width=WIDTH,
    ),
    affine(
        "layer-norm-mean", Transformer, "layers.0.norm1", (UncentredLayerNorm.apply, layer_norm), *FIRST, width=WIDTH
    ),
    affine("batch-norm-statistics", Convolutional, "norm", (ConstantStatistics.apply, batch_norm), "conv1", width=8),
    attends("softmax-without-its-sum", "layers.1.core", DiagonalSoftmaxAttention.apply, *BEFORE_CORE),
    attends(
        "attention-unscaled",
        "layers.0.core",
        UnscaledAttention.apply,
        *FIRST,
        "layers.0.norm1",
        "layers.0.qkv",
    ),
)
