"""Sums of squares on the CPU: every tensor is cut into short rows, and the squares of the row norms are added up.

Why rows. One float32 accumulator loses 3e-4 of the norm of 1e7 normal numbers and 8e-3 of 1e7 equal ones; a row of
2048 loses at most 6e-6, whatever is in it, and the rows are added in float64. A row is summed by one thread, so that
the number of threads does not change the result.
"""

from __future__ import annotations

import math
from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.linalg import vector_norm

from gradwatch.numerics.views import flat_view, pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

# What was tried: the time of the norms alone by that of `clip_grad_norm_`, 2 threads with AVX-512, torch 2.13.
#   24M parameters: rows 0.41, torch.dot 0.40 (off by 6e-5 at 3e5 elements), _foreach_norm 0.50 (off by 8e-3 at 1e7),
#   matrix products of rows 1.4, float64 accumulators 3.9.
#   400 tensors of 64 to 4096: rows 0.35, _foreach_norm and stack 0.50, segment_reduce of the elements 0.59,
#   pad_sequence 0.69, one large cat 0.71, torch.dot 0.95, index_add of the squares 1.3.
SHORT_ROW = 128  # of small tensors, which are padded with zeros to whole rows
LONG_ROW = 2048
SMALL = 8192  # elements; copying a larger tensor costs more than a kernel of its own
SHORT = 3072  # elements; up to here the eight float32 accumulators of a kernel, one a lane, lose at most 1e-5
MEDIUM = 1 << 17  # elements; up to here Python adds up the rows quicker than a kernel: 10.8 against 12.3 µs
BATCH = 32767  # elements; up to here `torch.cat` is one loop of memcpy (GRAIN_SIZE of aten/src/ATen/Parallel.h)
# Tensors; up to here a kernel for each is quicker than to join them. Within a training step, where all caches are cold:
# 0.53 against 0.70 ms for 52 and for 80 tensors, 0.81 against 0.91 for 120, 1.63 against 1.69 for 240.
FEW = 128


class _Rows(NamedTuple):
    """Row norms of several tensors, one after another, and how many rows each tensor has."""

    norms: list[Tensor]
    counts: list[int]


def row_based_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each tensor: float64, shape [n].

    Args:
        tensors: dense, real, floating-point, on the CPU; strides and dtypes may differ.
    """
    large = [index for index, tensor in enumerate(tensors) if tensor.numel() > SMALL]
    if not large:
        return _add_up(_small_rows(tensors))
    chosen = set(large)
    order = [index for index in range(len(tensors)) if index not in chosen]
    rows = _small_rows([tensors[index] for index in order])
    order.extend(large)
    for index in large:
        norms = _large_rows(tensors[index])
        rows.norms.extend(norms)
        rows.counts.append(sum(part.numel() for part in norms))
    places = sorted(range(len(order)), key=order.__getitem__)
    return _add_up(rows).index_select(0, _index(places))


def norms_one_by_one(tensors: Sequence[Tensor]) -> list[float]:
    """Return the norms of a few float32 tensors as numbers.

    Strided elements share a single accumulator in float32, which loses up to 5e-5: they are copied first.
    """
    return [_norm(tensor) for tensor in tensors]


def _norm(tensor: Tensor) -> float:
    elements = tensor.numel()
    if elements <= SHORT:
        norm: float = vector_norm(tensor if tensor.is_contiguous() else tensor.contiguous()).item()
        return norm
    rows = _large_rows(tensor)
    joined = rows[0] if len(rows) == 1 else torch.cat(rows)
    if elements > MEDIUM:
        joined = vector_norm(joined, dtype=torch.float64).view(1)
    return math.hypot(*joined.tolist())


def _add_up(rows: _Rows) -> Tensor:
    if not rows.norms:
        return torch.zeros(len(rows.counts), dtype=torch.float64, device="cpu")
    squares = torch.cat(rows.norms).double().square_()
    # `unsafe` leaves out the check that the counts add up, which takes longer than the sums of a small network.
    return torch.segment_reduce(squares, "sum", lengths=_index(rows.counts), unsafe=True).sqrt_()


def _index(numbers: list[int]) -> Tensor:
    # `torch.tensor` of 400 integers takes 48 µs, this takes 7.
    return torch.frombuffer(array("q", numbers), dtype=torch.int64)


def _small_rows(tensors: Sequence[Tensor]) -> _Rows:
    rows, padding = _Rows([], []), _padding()
    batch: list[Tensor] = []
    size = 0
    for tensor in tensors:
        elements = tensor.numel()
        pad = -elements % SHORT_ROW
        elements += pad
        size += elements
        if size > BATCH:
            rows.norms.append(_batch_rows(batch))
            batch, size = [], elements
        batch.append(tensor if tensor.dim() == 1 else tensor.flatten())
        if pad:
            batch.append(padding[pad])
        rows.counts.append(elements // SHORT_ROW)
    if size:
        rows.norms.append(_batch_rows(batch))
    return rows


def _batch_rows(batch: list[Tensor]) -> Tensor:
    return _row_norms(torch.cat(batch).view(-1, SHORT_ROW))


@lru_cache(maxsize=1)
def _padding() -> list[Tensor]:
    zeros = torch.zeros(SHORT_ROW, dtype=torch.float32, device="cpu")
    return [zeros[:length] for length in range(SHORT_ROW)]


def _large_rows(tensor: Tensor) -> list[Tensor]:
    native = tensor.dtype is torch.float32 or tensor.dtype is torch.float64
    length = _row_length(tensor.numel())
    if native and length and tensor.is_contiguous():  # nearly all there are: one view, one kernel
        return [_row_norms(tensor.view(-1, length))]
    flat = flat_view(tensor)
    if native and flat is not None:
        return _flat_rows(flat)
    # A half-precision tensor is converted on the way, a strided one copied, because its elements would share a single
    # accumulator: piece by piece, or the copy would be as large as the weights.
    parts = pieces(tensor if flat is None else flat)
    return [norms for piece in parts for norms in _flat_rows(piece.contiguous().view(-1))]


def _flat_rows(flat: Tensor) -> list[Tensor]:
    length = _row_length(flat.numel())
    if length:
        return [_row_norms(flat.view(-1, length))]
    whole = flat.numel() // LONG_ROW * LONG_ROW
    return [_row_norms(flat[:whole].view(-1, LONG_ROW)), _row_norms(flat[whole:].view(1, -1))]


@lru_cache(maxsize=4096)
def _row_length(elements: int) -> int:
    """Return the longest row that divides a tensor evenly; 0 if there is none: then the rest is a row of its own."""
    return next((length for length in range(LONG_ROW, SHORT_ROW - 1, -1) if elements % length == 0), 0)


def _row_norms(rows: Tensor) -> Tensor:
    norms: Tensor = vector_norm(rows, dim=1, dtype=torch.float64 if rows.dtype is torch.float64 else torch.float32)
    return norms
