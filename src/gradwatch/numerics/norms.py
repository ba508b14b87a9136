"""L2 norms: one fast pass for every step, and one that neither overflows nor underflows for when it is in doubt."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import torch
from torch.linalg import vector_norm

from gradwatch.numerics.rows import FEW, norms_one_by_one, row_based_norms
from gradwatch.numerics.views import PIECE, pieces, real_values, wide_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# A norm from `l2_norms` below this may be too small: the squares of elements below 1e-19 lose digits in float32.
UNDERFLOW = 1e-15

_traits = attrgetter("dtype", "layout", "is_cpu")
_PLAINEST = {(torch.float32, torch.strided, True)}
_CPU = -1  # what `Tensor.get_device` says of the CPU


@torch.no_grad()
def l2_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each tensor in one pass, without waiting for a device.

    Within 1e-5 of the float64 value while every element lies between 1e-19 and 1e19 in magnitude. NaN and infinity
    always reach the norm, so a finite norm proves finite elements; an infinite norm may also come from squares that
    overflow float32 (float64 for float64 tensors), and one below `UNDERFLOW` from squares that vanish: see
    `exact_l2_norms`.

    Args:
        tensors: any shape, strides, layout, dtype and device, mixed as they come. Of sparse tensors, duplicate
            indices are summed, which waits for the device if they are not coalesced yet.

    Returns:
        Shape [n], float64 (float32 on MPS), on the device of the first tensor.
    """
    values = real_values(tensors)
    if set(map(torch.Tensor.get_device, values)) <= {_CPU}:
        if len(values) > FEW or any(value.dtype is not torch.float32 for value in values):
            return row_based_norms(values)
        return torch.tensor(norms_one_by_one(values), dtype=torch.float64, device="cpu")
    devices = [value.device for value in values]
    norms = {device: _device_norms([v for v in values if v.device == device]) for device in dict.fromkeys(devices)}
    home = devices[0]
    if len(norms) == 1:
        return norms[home].to(wide_dtype(home))
    # A copy to the host must wait; between devices the streams keep the order.
    moved = {
        device: iter(vector.to(home, non_blocking=home.type != "cpu").unbind()) for device, vector in norms.items()
    }
    return torch.stack([next(moved[device]) for device in devices]).to(wide_dtype(home))


def few_l2_norms(tensors: Sequence[Tensor]) -> list[float] | None:
    """Return what `l2_norms` returns as numbers, or None where that is not the quickest way.

    For the gradients of a small network on the CPU, at every step: nothing to convert, no graph to keep out of, no
    transfer to save by joining the norms.
    """
    few = len(tensors) <= FEW and set(map(_traits, tensors)) == _PLAINEST
    return norms_one_by_one(tensors) if few else None


def _device_norms(values: Sequence[Tensor]) -> Tensor:
    """Return the norms of tensors that share a device other than the CPU: one launch for each dtype.

    Their kernels sum in trees, so that a large tensor needs no rows, and accumulate half precision in float32.
    """
    norms: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(value.dtype for value in values):
        chosen = [index for index, value in enumerate(values) if value.dtype is dtype]
        wide = torch.float64 if dtype is torch.float64 else torch.float32
        # What `clip_grad_norm_` is made of: the only function that measures a list in one launch.
        parts = torch._foreach_norm([values[index] for index in chosen], 2.0, dtype=wide)  # noqa: SLF001
        norms.update(zip(chosen, parts, strict=True))
    return torch.stack([norms[index] for index in range(len(values))])


@torch.no_grad()
def exact_l2_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each tensor, where `l2_norms` may have overflowed or underflowed.

    Accumulated in float64 after division by the largest magnitude, so that the norm is non-finite only if an element
    is: a norm above the largest float64 is returned as that number. Takes about ten times as long as `l2_norms`.

    Args:
        tensors: as for `l2_norms`.

    Returns:
        Shape [n], float64, on the device of the first tensor.
    """
    norms = [_exact_norm(value) for value in real_values(tensors)]
    return (
        torch.stack([norm.to(norms[0].device) for norm in norms])
        if norms
        else torch.zeros(0, dtype=torch.float64, device="cpu")
    )


def _exact_norm(value: Tensor) -> Tensor:
    if wide_dtype(value.device) is not torch.float64:
        value = value.cpu()
    if value.dtype is not torch.float64:  # squares of the narrower types neither overflow nor vanish in float64
        return _sum_of_squares(value).sqrt_()
    peak = vector_norm(value, torch.inf) if value.numel() else value.new_zeros(())
    limits = torch.finfo(torch.float64)
    scale = peak.clamp(limits.tiny, limits.max)  # keeps NaN; zero and infinity have no use as divisors
    norm = _sum_of_squares(value, scale).sqrt_().mul_(scale)
    return torch.where(peak.isfinite(), norm.clamp(max=limits.max), norm)


def _sum_of_squares(value: Tensor, scale: Tensor | None = None) -> Tensor:
    # One buffer for all pieces: new memory for each has its pages mapped each time, which takes twice as long or more.
    buffer = torch.empty(min(PIECE, value.numel()), dtype=torch.float64, device=value.device)
    sums = []
    for piece in pieces(value):
        wide = buffer[: piece.numel()].view(piece.shape).copy_(piece)
        if scale is not None:
            wide.div_(scale)
        sums.append(wide.square_().sum())
    return torch.stack(sums).sum()


@torch.no_grad()
def total_norm(norms: Tensor) -> Tensor:
    """Return the norm of all tensors together from the norm of each: sqrt(Σ norm²), accumulated in float64.

    Divided by the largest norm first: the total is infinite only if a norm is, or if it exceeds the largest float64.

    Args:
        norms: shape [n]; n may be 0.

    Returns:
        A 0-dim tensor, float64 (float32 on MPS), on the device of ``norms``.
    """
    norms = norms.to(wide_dtype(norms.device))
    if not norms.numel():
        return norms.new_zeros(())
    limits = torch.finfo(norms.dtype)
    scale = norms.amax().clamp_(limits.tiny, limits.max)
    total: Tensor = vector_norm(norms / scale)
    return total.mul_(scale)
