"""Clipping by norm, with the coefficient known on the host: nothing is touched when nothing has to be clipped."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

EPSILON = 1e-6  # of torch.nn.utils.clip_grad_norm_ (torch/nn/utils/clip_grad.py)

_kind = attrgetter("device", "dtype")
_DOUBLE = frozenset({torch.float64, torch.complex128})
_STEP = 2.0**-64
_SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


def clip_coefficient(total: float, max_norm: float) -> float:
    """Return min(1, max_norm / (total + 1e-6)), the factor by which `torch.nn.utils.clip_grad_norm_` multiplies.

    Computed in float64, where PyTorch uses the dtype of the gradients: a total of 1e30 is no infinity here.

    Args:
        total: the norm of all gradients together; finite, not negative.
        max_norm: what it may be at most; not negative, infinity for no limit.

    Raises:
        ValueError: if ``total`` is not finite (clipping would spread or hide the fault) or an argument is negative.
    """
    if not 0.0 <= total < math.inf:
        raise ValueError(f"total norm is {total}; only a finite norm can be clipped: look for the fault first")
    if not max_norm >= 0.0:
        raise ValueError(f"max_norm is {max_norm}; expected a number of at least 0")
    # PyTorch divides a number by a tensor as number * (1 / tensor): the last bit agrees.
    return min(1.0, max_norm * (1.0 / (total + EPSILON)))


@torch.no_grad()
def scale_(tensors: Sequence[Tensor], coefficient: float) -> None:
    """Multiply each tensor by ``coefficient``, in place.

    Bitwise what `clip_grad_norm_` does with that coefficient in float32 (float64 for float64 and complex128 tensors).
    Three differences: half-precision gradients are multiplied by the float32 coefficient, not by one rounded to their
    own precision; a coefficient that float32 would round (below 1.2e-38) is applied in two steps; 1.0 touches nothing.

    Args:
        tensors: floating-point or complex; any layout, dtype and device, mixed as they come. Tensors whose elements
            share memory (expanded) cannot be written to, as everywhere in PyTorch.
        coefficient: finite, not negative.

    Raises:
        ValueError: if ``coefficient`` is negative or not finite.
    """
    if not 0.0 <= coefficient < math.inf:
        raise ValueError(f"coefficient is {coefficient}; expected a finite number of at least 0")
    if coefficient == 1.0:
        return
    tensors = list(tensors)
    kinds = dict.fromkeys(map(_kind, tensors))
    for kind in kinds:
        _multiply_(tensors if len(kinds) == 1 else [tensor for tensor in tensors if _kind(tensor) == kind], coefficient)


def _multiply_(tensors: list[Tensor], coefficient: float) -> None:
    """Multiply tensors of one device and dtype."""
    double = tensors[0].dtype in _DOUBLE
    while not double and 0.0 < coefficient < _SMALLEST_NORMAL:
        # Exact, as a power of two, but for elements that end up as zero anyway.
        _foreach_multiply_(tensors, _STEP, torch.float32)
        coefficient /= _STEP
    _foreach_multiply_(tensors, coefficient, torch.float64 if double else torch.float32)


def _foreach_multiply_(tensors: list[Tensor], factor: float, dtype: torch.dtype) -> None:
    # On the CPU a number would be wrapped into a tensor once for each tensor (1.8 µs instead of 0.5); on a GPU a
    # tensor would have to be sent there, and the wait for it is what the number saves.
    if tensors[0].is_cpu:
        torch._foreach_mul_(tensors, torch.tensor(factor, dtype=dtype, device="cpu"))
    else:
        torch._foreach_mul_(tensors, factor)
