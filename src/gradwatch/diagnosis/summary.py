"""Shape, range and special values of a tensor as host numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from gradwatch.numerics import summarize
from gradwatch.records import TensorSummary

if TYPE_CHECKING:
    from torch import Tensor

MAX_ROWS = 100_000


def summary_of(tensor: Tensor) -> TensorSummary:
    """Return the summary of ``tensor``; ``min`` and ``max`` are None where no element is finite."""
    measured = summarize(tensor.detach())
    return TensorSummary(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        min=_finite(float(measured.min)),
        max=_finite(float(measured.max)),
        nan=int(measured.nan),
        posinf=int(measured.posinf),
        neginf=int(measured.neginf),
        zeros=int(measured.zeros),
    )


def first_bad_index(tensor: Tensor) -> list[int] | None:
    """Return the index of the first NaN, else of the first ±inf, in memory order; None for a 0-dim tensor."""
    if not tensor.dim():
        return None
    for bad in (tensor.isnan(), tensor.isinf()):
        if any_true(bad):
            flat = int(bad.reshape(-1).to(torch.uint8).argmax())
            index = []
            for size in reversed(tensor.shape):
                flat, position = divmod(flat, size)
                index.append(position)
            return index[::-1]
    return None


def bad_rows(tensor: Tensor) -> list[int]:
    """Return the positions along dimension 0 at which something is NaN, or without any NaN infinite."""
    if not tensor.dim() or not tensor.numel():
        return []
    bad = tensor.isnan()
    bad = bad if any_true(bad) else tensor.isinf()
    rows: list[int] = bad.reshape(len(bad), -1).any(dim=1).nonzero().flatten()[:MAX_ROWS].tolist()
    return rows


def any_true(mask: Tensor) -> bool:
    """Whether an element is true: on a CPU ``any`` takes three times as long as a count."""
    return bool(torch.count_nonzero(mask))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
