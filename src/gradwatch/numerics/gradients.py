"""Gradients compared with gradients, and the directions along which a derivative is measured."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# A weight that is zero has no size of its own to measure a step by.
SMALLEST_SCALE = 1e-3


class Agreement(NamedTuple):
    """How far a gradient is from a reference; both are float64 scalars on the device of the gradient.

    ``error`` is ‖g - r‖ / ‖r‖, ``cosine`` is <g, r> / (‖g‖ ‖r‖).
    """

    error: Tensor
    cosine: Tensor


def agreement(gradient: Tensor, reference: Tensor) -> Agreement:
    """Compare two gradients of one tensor in float64. Zero against zero agrees; both may be sparse or complex."""
    g, r = _flat(gradient), _flat(reference)
    of_gradient, of_reference = torch.linalg.vector_norm(g), torch.linalg.vector_norm(r)
    difference = torch.linalg.vector_norm(g - r)
    nothing = difference == 0
    error: Tensor = torch.where(nothing, 0.0, difference / of_reference)
    cosine = torch.where(nothing, 1.0, torch.vdot(r, g).real / (of_gradient * of_reference))
    return Agreement(error, cosine)


def inner_product(gradient: Tensor, direction: Tensor) -> Tensor:
    """Return the derivative along ``direction``: Re<g, d>, the sum of both parts' products for complex tensors."""
    product: Tensor = torch.vdot(_flat(gradient), _flat(direction)).real
    return product


def root_mean_square(tensor: Tensor) -> Tensor:
    """Return sqrt(mean |x|²) in float64, 0 for a tensor without elements."""
    flat = _flat(tensor)
    norm: Tensor = torch.linalg.vector_norm(flat)
    return norm / math.sqrt(max(flat.numel(), 1))


def random_direction(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return d = randn · max(rms(weight), 1e-3): a step along it is a *relative* change of the weight.

    In float32, or complex64: any direction will do, and half the memory.

    Args:
        weight: real or complex, of any shape.
        generator: on the CPU, so that the direction is the same on every device.

    Reference: P. E. Gill, W. Murray, M. H. Wright, Practical Optimization (1981), section 8.6: steps in units of x.
    """
    narrow = torch.complex64 if weight.is_complex() else torch.float32
    noise = torch.randn(weight.shape, generator=generator, dtype=narrow).to(weight.device)
    return noise.mul_(root_mean_square(weight.detach()).clamp(min=SMALLEST_SCALE).to(noise.real.dtype))


def _flat(tensor: Tensor) -> Tensor:
    dense = tensor.to_dense() if tensor.layout is not torch.strided else tensor
    wide = torch.complex128 if dense.is_complex() else torch.float64
    return dense.detach().to(wide).reshape(-1)
