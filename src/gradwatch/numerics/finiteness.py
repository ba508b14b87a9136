"""Which elements are not finite: a cheap verdict, counts, and a summary of one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.linalg import vector_norm

from gradwatch.numerics.views import real_value, wide_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Summary(NamedTuple):
    """Range and special values of a tensor, as 0-dim tensors on its device.

    ``min`` and ``max`` are over the finite elements, float64 (float32 on MPS), NaN where there is none; of complex
    numbers, over their magnitudes. The counts are int64.
    """

    min: Tensor
    max: Tensor
    nan: Tensor
    posinf: Tensor
    neginf: Tensor
    zeros: Tensor


@torch.no_grad()
def nonfinite_counts(tensors: Sequence[Tensor]) -> Tensor:
    """Return how many elements of each tensor are NaN, +inf and -inf, without waiting for a device.

    Args:
        tensors: any dtype, layout and device, mixed as they come. A complex number counts wherever one of its parts
            does, so it may count twice; integers and booleans count nowhere.

    Returns:
        Shape [n, 3], int64, on the device of the first tensor.
    """
    if not tensors:
        return torch.zeros(0, 3, dtype=torch.int64, device="cpu")
    return torch.stack([torch.stack(_counts(tensor)).to(tensors[0].device) for tensor in tensors])


@torch.no_grad()
def summarize(tensor: Tensor) -> Summary:
    """Return range and special values of ``tensor``, of a sparse one those of its stored values."""
    value, special = real_value(tensor), _counts(tensor)
    zero, sizes = value == 0, value
    if tensor.is_complex():
        zero = zero.all(dim=-1)
        sizes = vector_norm(value.to(wide_dtype(value.device)), dim=-1)
    low, high = _range(sizes)
    return Summary(low, high, *special, torch.count_nonzero(zero))


def _range(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the extremes of the finite values, without a mask of them: each would take longer than all the rest."""
    wide = wide_dtype(values.device)
    nothing = torch.full((), torch.nan, dtype=wide, device=values.device)
    if not values.numel():
        return nothing, nothing
    low = values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf).amin().to(wide)
    high = values.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf).amax().to(wide)
    return torch.where(low.isinf(), nothing, low), torch.where(high.isinf(), nothing, high)


def _counts(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not _can_be_nonfinite(tensor):
        zero = torch.zeros((), dtype=torch.int64, device=tensor.device)
        return zero, zero, zero
    value = real_value(tensor)
    nan, posinf, neginf = value.isnan(), value == torch.inf, value == -torch.inf
    if tensor.is_complex():
        nan, posinf, neginf = nan.any(dim=-1), posinf.any(dim=-1), neginf.any(dim=-1)
    # Six times as fast as a sum of booleans on a CPU.
    return torch.count_nonzero(nan), torch.count_nonzero(posinf), torch.count_nonzero(neginf)


def _can_be_nonfinite(tensor: Tensor) -> bool:
    # Packed 4-bit floats say they are floating-point, cannot be converted, and have neither NaN nor infinity.
    return (tensor.is_floating_point() or tensor.is_complex()) and tensor.dtype is not torch.float4_e2m1fn_x2
