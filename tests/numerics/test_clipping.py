from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradwatch.numerics import clip_coefficient, exact_l2_norms, l2_norms, scale_, total_norm
from tests.numerics.tensors import COMPLEX, FLOATS, PROPERTY, filled, numbers, same_bits, sparse_rows
from tests.numerics.watching import NoTransfers


def _parameters(*gradients: torch.Tensor) -> list[nn.Parameter]:
    parameters = []
    for gradient in gradients:
        parameters.append(nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype)))
        parameters[-1].grad = gradient.clone()
    return parameters


def _clip(gradients: list[torch.Tensor], max_norm: float) -> float:
    """One step as a caller would write it; returns the norm before."""
    total = math.hypot(*l2_norms(gradients).tolist())
    if not math.isfinite(total):
        total = total_norm(exact_l2_norms(gradients)).item()
    scale_(gradients, clip_coefficient(total, max_norm))
    return total


# --- clip_coefficient -------------------------------------------------------------------------------------------------


@PROPERTY
@given(st.floats(0.0, 1e308), st.floats(0.0, 1e308))
def test_the_formula_is_that_of_torch(total: float, max_norm: float) -> None:
    expected = torch.clamp(max_norm / (torch.tensor(total, dtype=torch.float64) + 1e-6), max=1.0)
    assert clip_coefficient(total, max_norm) == expected.item()


@pytest.mark.parametrize(
    ("total", "max_norm", "expected"),
    [(0.0, 1.0, 1.0), (0.5, 1.0, 1.0), (1e30, 1.0, 1e-30), (1e300, 5.0, 5e-300), (3.0, math.inf, 1.0), (2.0, 0.0, 0.0)],
)
def test_coefficients(total: float, max_norm: float, expected: float) -> None:
    assert clip_coefficient(total, max_norm) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("total", [math.nan, math.inf, -1.0])
def test_a_norm_that_cannot_be_clipped_is_refused(total: float) -> None:
    with pytest.raises(ValueError, match=f"total norm is {total}; only a finite norm can be clipped"):
        clip_coefficient(total, 1.0)


@pytest.mark.parametrize("max_norm", [math.nan, -1.0])
def test_a_limit_that_makes_no_sense_is_refused(max_norm: float) -> None:
    with pytest.raises(ValueError, match=f"max_norm is {max_norm}; expected a number of at least 0"):
        clip_coefficient(1.0, max_norm)


# --- scale_ -----------------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    st.lists(st.sampled_from([torch.float32, torch.float64, *COMPLEX]), min_size=1, max_size=5),
    st.integers(0, 10_000),
    st.floats(1e-3, 1e3),
    st.integers(0, 999),
)
def test_bitwise_what_torch_does_with_the_same_total(
    dtypes: list[torch.dtype], elements: int, max_norm: float, seed: int
) -> None:
    gradients = [filled((elements,), dtype, seed + i, scale=10.0) for i, dtype in enumerate(dtypes)]
    parameters = _parameters(*gradients)
    total = total_norm(l2_norms(gradients))
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, total)
    scale_(gradients, clip_coefficient(total.item(), max_norm))
    for gradient, parameter in zip(gradients, parameters, strict=True):
        assert parameter.grad is not None
        assert same_bits(gradient, parameter.grad)


@pytest.mark.parametrize("dtype", FLOATS + COMPLEX)
@pytest.mark.parametrize("coefficient", [0.0, 1e-9, 0.3, 1.7])
def test_every_dtype_is_right_to_rounding(dtype: torch.dtype, coefficient: float) -> None:
    """Also where the coefficient itself is no number of that dtype: 1e-9 in float16."""
    tensor = filled((1000,), dtype, 1, scale=1e4)
    expected = (numbers(tensor) * coefficient).to(dtype)
    scale_([tensor], coefficient)
    precision = torch.finfo(dtype)
    assert torch.allclose(
        numbers(tensor), numbers(expected), rtol=2 * precision.eps, atol=2 * precision.smallest_normal * precision.eps
    )


def test_sparse_and_strided_and_mixed() -> None:
    sparse = sparse_rows([1, 1, 3], torch.tensor([1.0, 2.0, 4.0]), 5)
    compressed = torch.tensor([[0.0, 2.0], [4.0, 0.0]]).to_sparse()
    channels_last = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
    leaf = torch.ones(3, requires_grad=True)
    tensors = [
        sparse,
        compressed,
        channels_last,
        torch.ones(6)[::2],
        torch.ones(2, dtype=torch.bfloat16),
        leaf,
        torch.ones(0),
    ]
    scale_(tensors, 0.5)
    assert sparse.to_dense().tolist() == [0.0, 1.5, 0.0, 2.0, 0.0]
    assert compressed.to_dense().tolist() == [[0.0, 1.0], [2.0, 0.0]]
    assert all((tensor == 0.5).all() for tensor in tensors[2:])


def test_one_touches_nothing() -> None:
    tensor = torch.ones(3)
    scale_([tensor], 1.0)
    scale_([], 0.5)
    assert tensor._version == 0


def test_the_order_of_dtypes_does_not_matter() -> None:
    tensors = [torch.full((2,), 2.0, dtype=dtype) for dtype in (*FLOATS, *COMPLEX, *reversed(FLOATS))]
    scale_(tensors, 0.25)
    assert all((tensor == 0.5).all() for tensor in tensors)


@pytest.mark.parametrize("coefficient", [1e-39, 1e-42, 1e-60])
def test_a_coefficient_that_float32_would_round_is_exact(coefficient: float) -> None:
    """1e-42 is off by 2e-4 as a float32, and 1e-60 is zero."""
    values = [3e38, 1.0, 1e-30, 0.0]
    tensor = torch.tensor(values)
    expected = (tensor.double() * coefficient).float()
    scale_([tensor], coefficient)
    assert torch.allclose(tensor, expected, rtol=2**-22, atol=2**-149)


@pytest.mark.parametrize("coefficient", [math.nan, math.inf, -0.5])
def test_a_coefficient_that_would_do_harm_is_refused(coefficient: float) -> None:
    tensor = torch.ones(3)
    with pytest.raises(ValueError, match=f"coefficient is {coefficient}; expected a finite number of at least 0"):
        scale_([tensor], coefficient)
    assert tensor.tolist() == [1.0] * 3


def test_scaling_reads_nothing_back() -> None:
    with NoTransfers() as mode:
        scale_([torch.ones(3), torch.ones(2, dtype=torch.complex128)], 0.5)
    assert mode.waits == []


# --- a whole step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype"), [(1e30, torch.float32), (3e38, torch.float32), (1e300, torch.float64), (1e38, torch.complex64)]
)
@pytest.mark.parametrize("max_norm", [1.0, 0.25])
def test_huge_finite_gradients_are_clipped_to_the_limit(value: float, dtype: torch.dtype, max_norm: float) -> None:
    gradients = [torch.full((20_000,), value, dtype=dtype), torch.full((7,), value, dtype=dtype), torch.ones(5)]
    assert _clip(gradients, max_norm) == pytest.approx(value * math.sqrt(20_007), rel=1e-6)
    assert total_norm(exact_l2_norms(gradients)).item() == pytest.approx(max_norm, rel=1e-5)


@PROPERTY
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=6), st.floats(0.01, 100.0), st.integers(0, 999))
def test_clipping_agrees_with_torch(sizes: list[int], max_norm: float, seed: int) -> None:
    gradients = [filled((size,), torch.float32, seed + i) for i, size in enumerate(sizes)]
    parameters = _parameters(*gradients)
    expected = torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()
    assert _clip(gradients, max_norm) == pytest.approx(expected, rel=1e-5)
    for gradient, parameter in zip(gradients, parameters, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(gradient, parameter.grad, rtol=1e-5, atol=0.0)
