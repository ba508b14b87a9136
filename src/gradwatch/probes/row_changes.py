"""Which rows of a tensor change when one sample of the batch is replaced, told from a number for each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Kind = Literal["same", "own", "others", "unknown"]

# Of the largest change of a row, and of the largest row: what is below is nobody's concern, or round-off.
RELATIVE, NEGLIGIBLE = 1e-3, 1e-6
GOLDEN = 0.6180339887498949


class Print(NamedTuple):
    """What is kept of a tensor: its shape, and a weighted sum over each of its rows.

    ``dims`` are those that grow with the batch, and the axes of ``rows``, with at least one of which changes any
    change of a row; ``rows`` is None where nothing can be said. ``grad``: gradients flow into it.
    """

    shape: tuple[int, ...]
    dims: tuple[int, ...] = ()
    rows: np.ndarray | None = None
    grad: bool = False


class Change(NamedTuple):
    """What another sample in place of one has changed.

    ``kind``: nothing (same), what belongs to that sample (own), that of ``others`` too, or unknown. ``share`` is the
    largest change of another row by the largest of all.
    """

    kind: Kind
    others: int = 0
    share: float = 0.0


UNKNOWN = Change("unknown")


def print_of(tensor: Tensor, doubled: Sequence[int] | None, samples: int) -> Print:
    """Return the print of a tensor whose shape is ``doubled`` where the batch has every sample twice."""
    shape = shape_of(tensor)
    dims = None if shape is None else _growing(shape, doubled, samples)
    if shape is None or dims is None or not tensor.numel():
        return Print(shape or ())
    return Print(shape, dims, _sums(tensor.detach(), dims), tensor.requires_grad)


def shape_of(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the shape of a tensor that has rows: dense, and with numbers in it."""
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        return None
    return tuple(tensor.shape)


def compared(before: Print, after: Print, place: int, samples: int, *, sorts: bool = False) -> Change:
    """Return what has changed along the dimension of the batch, of which ``place`` is the sample that was replaced.

    Args:
        before: with the batch as it is.
        after: with another sample in its place.
        place: which of the samples that is.
        samples: how many there are. Where each has several rows, as many as these may change, wherever they lie.
        sorts: samples may have been brought into an order of their own, where a new one has another place.
    """
    if before.rows is None or after.rows is None or before.shape != after.shape:
        return UNKNOWN
    change = np.abs(after.rows - before.rows)
    largest = float(change.max())
    scale = float(max(np.abs(before.rows).max(), np.abs(after.rows).max()))
    if largest <= NEGLIGIBLE * scale:
        return Change("same")
    changed = change > max(RELATIVE * largest, NEGLIGIBLE * scale)
    if change.ndim != 1:  # pairs of samples, or what has no rows
        return _of_pairs(changed, place)
    if sorts and _reordered(before.rows, after.rows, RELATIVE * largest):
        return UNKNOWN
    each = len(changed) // samples
    own = np.argsort(change)[-each:] if each > 1 else np.array([place])
    others = np.delete(change, own)
    count = int(np.delete(changed, own).sum())
    return Change("others", count, float(others.max()) / largest) if count else Change("own")


def _growing(shape: tuple[int, ...], doubled: Sequence[int] | None, samples: int) -> tuple[int, ...] | None:
    """Return the dimensions that grow with the batch; None if something else grows, or grows otherwise."""
    if doubled is None or len(doubled) != len(shape):
        return None
    dims = tuple(dim for dim, size in enumerate(shape) if doubled[dim] != size)
    if any(doubled[dim] != 2 * shape[dim] or shape[dim] % samples for dim in dims):
        return None
    return dims


@torch.no_grad()
def _sums(tensor: Tensor, dims: tuple[int, ...]) -> np.ndarray:
    values = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    values = torch.nan_to_num(values.double(), nan=GOLDEN, posinf=1e3, neginf=-1e3)
    sizes = [tensor.shape[dim] for dim in dims]
    flat = values.movedim(dims, tuple(range(len(dims)))).reshape(*sizes, -1)
    # No two weights are the same, so that neither a sum that is fixed nor a swap of elements goes unseen.
    weights = torch.frac(torch.arange(1, flat.shape[-1] + 1, device=flat.device, dtype=torch.float64) * GOLDEN) + 0.5
    sums: np.ndarray = (flat @ weights).cpu().numpy()
    return sums


def _of_pairs(changed: np.ndarray, place: int) -> Change:
    """Similarities of samples, as in a contrastive loss: those with the replaced one may change."""
    for axis, size in enumerate(changed.shape):
        if place >= size:
            return UNKNOWN
        changed = np.delete(changed, place, axis=axis)
    return Change("own") if changed.ndim and not changed.any() else UNKNOWN


def _reordered(before: np.ndarray, after: np.ndarray, tolerance: float) -> bool:
    """Whether all rows but one are there as before, wherever."""
    left = after.tolist()
    missing = 0
    for row in before.tolist():
        match = min(left, key=lambda other: abs(other - row), default=None)
        if match is not None and abs(match - row) <= tolerance:
            left.remove(match)
        else:
            missing += 1
    return missing <= 1
