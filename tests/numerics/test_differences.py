from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.numerics import difference_norms
from gradwatch.numerics.views import PIECE
from tests.numerics.tensors import COMPLEX, FLOATS, PROPERTY, dense, filled, naive_norm, numbers, same_bits, sparse_rows
from tests.numerics.watching import LargestResult, NoTransfers


def _expected(new: torch.Tensor, old: torch.Tensor) -> float:
    return naive_norm(numbers(new) - numbers(old))


@PROPERTY
@given(st.lists(dense(), max_size=5), st.integers(0, 999))
def test_each_norm_is_that_of_float64(new: list[torch.Tensor], seed: int) -> None:
    old = [filled(tensor.shape, tensor.dtype, seed + i) for i, tensor in enumerate(new)]
    expected = [_expected(*pair) for pair in zip(new, old, strict=True)]
    assert difference_norms(new, old).tolist() == pytest.approx(expected, rel=1e-5, abs=0.0)


@pytest.mark.parametrize("dtype", FLOATS + COMPLEX)
def test_tensors_larger_than_a_piece(dtype: torch.dtype) -> None:
    shapes = [(3,), (2 * PIECE + 5,), (0,), (300, 1000), (PIECE,), ()]
    new = [filled(shape, dtype, 1) for shape in shapes]
    old = [filled(shape, dtype, 2) for shape in shapes]
    new[3] = new[3].t().contiguous().t()  # not contiguous: the two must be cut alike
    expected = [_expected(*pair) for pair in zip(new, old, strict=True)]
    assert difference_norms(new, old).tolist() == pytest.approx(expected, rel=1e-5, abs=0.0)


def test_a_small_update_in_half_precision_is_not_rounded_away() -> None:
    old = torch.full((100,), 1.0, dtype=torch.bfloat16)
    assert difference_norms([old + 2**-7], [old]).item() == 10 * 2**-7


def test_dtypes_of_a_pair_may_differ() -> None:
    new, old = torch.tensor([3.0, 1.0], dtype=torch.float64), torch.tensor([0.0, -3.0], dtype=torch.float16)
    assert difference_norms([new, old], [old, new]).tolist() == pytest.approx([5.0, 5.0])


def test_sparse_tensors_of_different_indices() -> None:
    new = sparse_rows([0, 2, 2], torch.tensor([1.0, 1.0, 3.0]), 4)
    old = sparse_rows([0, 1], torch.tensor([1.0, 3.0]), 4)
    assert difference_norms([new], [old]).item() == pytest.approx(5.0)


def test_nonfinite_differences_show() -> None:
    new = [torch.tensor([1.0, bad]) for bad in (math.nan, math.inf, -math.inf)] + [torch.ones(2)]
    old = [torch.zeros(2)] * 4
    assert difference_norms(new, old).isfinite().tolist() == [False, False, False, True]


@pytest.mark.parametrize(("new", "old"), [((2,), (3,)), ((2, 3), (6,)), ((2,), None)])
def test_pairs_that_do_not_match_are_refused(new: tuple[int, ...], old: tuple[int, ...] | None) -> None:
    with pytest.raises(ValueError, match="expected pairs of one shape, got 1 and"):
        difference_norms([torch.zeros(new)], [] if old is None else [torch.zeros(old)])


def test_no_full_copy_is_made() -> None:
    new = [torch.ones(2_000_000), torch.ones(1000, 700).t(), *[torch.ones(1000)] * 600]
    old = [torch.zeros_like(tensor) for tensor in new]
    with LargestResult() as mode:
        norms = difference_norms(new, old)
    assert norms.shape == (602,)
    assert 0 < mode.bytes <= 4 * PIECE


def test_nothing_is_written_recorded_or_read_back() -> None:
    new, old = torch.ones(5, requires_grad=True), torch.zeros(5, requires_grad=True)
    with NoTransfers() as mode:
        norms = difference_norms([new], [old])
    assert mode.waits == []
    assert not norms.requires_grad
    assert same_bits(new, torch.ones(5))
    assert same_bits(old, torch.zeros(5))
    assert difference_norms([], []).shape == (0,)
