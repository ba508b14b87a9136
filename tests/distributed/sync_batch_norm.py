"""PyTorch's own SyncBatchNorm on the CPU, with its real collectives.

PyTorch brings the arithmetic for accelerators only; here it is in plain operations. Formulas: Ioffe and Szegedy,
"Batch Normalization", 2015, with the variances of the ranks combined as weighted second moments.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch.nn import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor


def _stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    axes, wide = _others(x), x.float()
    return wide.mean(axes), (wide.var(axes, unbiased=False) + eps).rsqrt()


def _gather_stats(  # noqa: PLR0917 - the signature of the operation
    _x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    count = counts.sum()
    weights = (counts / count)[:, None]
    total = (weights * mean).sum(0)
    variance = (weights * (invstd**-2 - eps + mean.square())).sum(0) - total.square()
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(total, momentum)
        running_var.lerp_(variance * count / (count - 1), momentum)
    return total, (variance + eps).rsqrt()


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, _eps: float) -> Tensor:
    y = (x - _along(x, mean)) * _along(x, invstd)
    return (y * _along(x, weight) + _along(x, bias)).to(x.dtype)


def _backward_reduce(
    grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, _weight: Tensor, *_needed: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    axes, grad = _others(x), grad.float()
    centred = (grad * (x - _along(x, mean))).sum(axes)
    return grad.sum(axes), centred, centred * invstd, grad.sum(axes)


def _backward_elements(  # noqa: PLR0917 - as above
    grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor, dy: Tensor, dy_xmu: Tensor, count: Tensor
) -> Tensor:
    total = count.sum()
    slope = (x - _along(x, mean)) * _along(x, invstd.square() * dy_xmu / total)
    return ((grad - _along(x, dy / total) - slope) * _along(x, invstd * weight)).to(x.dtype)


def _others(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def _along(x: Tensor, channels: Tensor) -> Tensor:
    return channels.reshape(1, -1, *[1] * (x.dim() - 2))


KERNELS: dict[str, Callable[..., Any]] = {
    "batch_norm_stats": _stats,
    "batch_norm_gather_stats_with_counts": _gather_stats,
    "batch_norm_elemt": _normalised,
    "batch_norm_backward_reduce": _backward_reduce,
    "batch_norm_backward_elemt": _backward_elements,
}


@contextmanager
def on_cpu() -> Iterator[None]:
    """Let ``torch.nn.SyncBatchNorm``, and the wrapper that checks for it, accept tensors on the CPU."""
    library = torch.library.Library("aten", "IMPL", "CPU")  # type: ignore[no-untyped-call]
    for name, kernel in KERNELS.items():
        library.impl(name, kernel)  # type: ignore[no-untyped-call]
    forward = SyncBatchNorm.forward

    def accepted(self: SyncBatchNorm, x: Tensor) -> Tensor:
        with mock.patch.object(torch._C, "_get_privateuse1_backend_name", return_value="cpu"):
            return forward(self, x)

    with (
        mock.patch.object(SyncBatchNorm, "forward", accepted),
        mock.patch.object(DistributedDataParallel, "_passing_sync_batchnorm_handle", return_value=None),
    ):
        yield
