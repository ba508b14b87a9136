"""Tensors of every kind for property tests, and their norms by naive float64 arithmetic."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from hypothesis import settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

# No deadline: the machine may be busy with something else.
PROPERTY = settings(deadline=None, max_examples=100)

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)

# Around the sizes at which the CPU code takes another path: a padded row, a row, a copied tensor, a piece.
# Those above 20,000 appear in parametrized tests only.
EDGES = (0, 1, 127, 128, 129, 2047, 2048, 2049, 8192, 8193, 8209, 16411, 32768, 2**18 + 2, 2**19 + 7)

_DENSE: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda base: base,
    "transposed": lambda base: base.t() if base.dim() == 2 else base,
    "every second": lambda base: torch.stack((base, base), dim=-1)[..., 0],
    "reversed dimensions": lambda base: base.permute(tuple(reversed(range(base.dim())))),
    "expanded": lambda base: base.unsqueeze(-1).expand(*base.shape, 3),
    "offset": lambda base: torch.cat((base.flatten()[:1], base.flatten()))[-base.numel() :] if base.numel() else base,
    "conjugate": lambda base: base.conj(),
}


def filled(shape: Sequence[int], dtype: torch.dtype, seed: int, scale: float = 1.0) -> Tensor:
    """Normal numbers times ``scale``, or, for every third seed, one number everywhere: the worst case of summation."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.complex128 if dtype.is_complex else torch.float64
    if seed % 3 == 0:
        return torch.ones(shape, dtype=dtype) * (torch.randn((), dtype=kind, generator=generator) * scale).to(dtype)
    return (torch.randn(shape, dtype=kind, generator=generator) * scale).to(dtype)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    """Few elements in up to four dimensions, or a number of elements at which the code changes its path."""
    if draw(st.integers(0, 3)) == 0:
        return (draw(st.sampled_from([edge for edge in EDGES if edge < 20_000])),)
    return tuple(draw(st.lists(st.integers(0, 9), max_size=4)))


@st.composite
def dense(
    draw: st.DrawFn, dtypes: Sequence[torch.dtype] = FLOATS + COMPLEX, scales: Sequence[float] = (1.0,)
) -> Tensor:
    """A dense tensor of any strides, sometimes a leaf that requires a gradient."""
    values = filled(
        draw(shapes()), draw(st.sampled_from(dtypes)), draw(st.integers(0, 999)), draw(st.sampled_from(scales))
    )
    tensor = _DENSE[draw(st.sampled_from(sorted(_DENSE)))](values)
    return tensor.requires_grad_() if draw(st.booleans()) else tensor


@st.composite
def sparse(draw: st.DrawFn, dtypes: Sequence[torch.dtype] = FLOATS + COMPLEX) -> Tensor:
    """A sparse tensor, as an embedding's gradient: rows that occur several times are summed."""
    rows, width = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    indices = draw(st.lists(st.integers(0, rows - 1), max_size=12))
    values = filled((len(indices), width), draw(st.sampled_from(dtypes)), draw(st.integers(0, 999)))
    return sparse_rows(indices, values, rows)


def sparse_rows(indices: list[int], values: Tensor, rows: int) -> Tensor:
    """A sparse tensor with ``values[i]`` in row ``indices[i]``, not coalesced."""
    where = torch.tensor([indices], dtype=torch.int64).reshape(1, -1)
    return torch.sparse_coo_tensor(where, values, (rows, *values.shape[1:]), check_invariants=True)


def any_tensor() -> st.SearchStrategy[Tensor]:
    """A dense or sparse tensor."""
    return st.one_of(dense(), sparse())


def numbers(tensor: Tensor) -> Tensor:
    """All numbers of ``tensor`` as a vector of float64 or complex128."""
    values = tensor.detach().resolve_conj()
    if values.layout is torch.sparse_coo:
        values = values.coalesce().values()  # as the optimizer sees it: half precision is summed in half precision
    return values.to(torch.complex128 if values.is_complex() else torch.float64).flatten()


def naive_norm(tensor: Tensor) -> float:
    """Sqrt of the sum of squares in float64; `math.hypot` where the squares would not fit."""
    values = numbers(tensor)
    magnitudes = torch.view_as_real(values).flatten() if values.is_complex() else values
    if not magnitudes.numel():
        return 0.0
    largest = float(magnitudes.abs().max())
    if largest == 0.0 or 1e-140 < largest < 1e140:
        return math.sqrt(float(magnitudes.square().sum()))
    return math.hypot(*magnitudes.tolist())


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors agree in every bit; NaN equals NaN."""
    return first.shape == second.shape and torch.equal(_bytes(first), _bytes(second))


def _bytes(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().flatten()).view(torch.uint8)
