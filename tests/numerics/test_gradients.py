from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.numerics import agreement, inner_product, random_direction, root_mean_square
from tests.numerics.tensors import COMPLEX, FLOATS, PROPERTY, dense, filled, shapes

_seeds = st.integers(0, 1000)
_dtypes = st.sampled_from(FLOATS + COMPLEX)


def real_or_not(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.detach().resolve_conj().to(torch.complex128).numpy().reshape(-1)
    return np.asarray(array if tensor.is_complex() else array.real)


@PROPERTY
@given(shapes(), _dtypes, _seeds)
def test_the_inner_product_is_that_of_numpy(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
    one, other = filled(shape, dtype, seed), filled(shape, dtype, seed + 1)
    expected = float(np.vdot(real_or_not(one), real_or_not(other)).real)
    size = float(np.linalg.norm(real_or_not(one)) * np.linalg.norm(real_or_not(other)))
    found = inner_product(one, other)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(expected, abs=1e-12 * size)


def test_the_derivative_along_a_complex_direction_moves_both_parts() -> None:
    """Of |z|² at 3+4i the gradient is 2z: a step along i changes it by twice the imaginary part."""
    gradient = torch.tensor([6 + 8j])
    assert float(inner_product(gradient, torch.tensor([1j]))) == 8.0
    assert float(inner_product(gradient, torch.tensor([1 + 0j]))) == 6.0


@PROPERTY
@given(dense())
def test_the_root_mean_square_is_that_of_numpy(tensor: torch.Tensor) -> None:
    array = real_or_not(tensor)
    expected = math.sqrt(np.mean(np.abs(array) ** 2)) if array.size else 0.0
    assert float(root_mean_square(tensor)) == pytest.approx(expected, rel=1e-12)


@PROPERTY
@given(dense())
def test_a_gradient_agrees_with_itself(tensor: torch.Tensor) -> None:
    error, cosine = agreement(tensor, tensor)
    assert (float(error), float(cosine)) == (0.0, 1.0)


@PROPERTY
@given(st.floats(1e-3, 1e3), _dtypes, _seeds)
def test_a_scaled_gradient_points_the_same_way(factor: float, dtype: torch.dtype, seed: int) -> None:
    reference = filled((5, 3), dtype, seed).to(torch.complex128 if dtype.is_complex else torch.float64)
    error, cosine = agreement(reference * factor, reference)
    assert float(error) == pytest.approx(abs(factor - 1), abs=1e-9)
    assert float(cosine) == pytest.approx(1.0, abs=1e-12)


def test_the_opposite_gradient_is_as_wrong_as_can_be() -> None:
    error, cosine = agreement(torch.tensor([1.0, -2.0]), torch.tensor([-1.0, 2.0]))
    assert (float(error), float(cosine)) == pytest.approx((2.0, -1.0))


def test_orthogonal_gradients_have_no_cosine() -> None:
    error, cosine = agreement(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
    assert (float(error), float(cosine)) == pytest.approx((math.sqrt(2), 0.0))


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_agrees_with_nothing(count: int) -> None:
    error, cosine = agreement(torch.zeros(count), torch.zeros(count))
    assert (float(error), float(cosine)) == (0.0, 1.0)


def test_something_is_infinitely_far_from_nothing() -> None:
    error, cosine = agreement(torch.ones(2), torch.zeros(2))
    assert float(error) == math.inf
    assert math.isnan(float(cosine))


def test_a_gradient_that_is_not_finite_agrees_with_nothing() -> None:
    assert math.isnan(float(agreement(torch.tensor([math.nan]), torch.ones(1)).error))


def test_sparse_gradients_are_compared_by_value() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 2, 0]]), [1.0, 2.0, 3.0], (4,), check_invariants=True)
    assert float(agreement(sparse, torch.tensor([4.0, 0.0, 2.0, 0.0])).error) == 0.0
    assert float(inner_product(sparse, torch.tensor([1.0, 1.0, 1.0, 1.0]))) == 6.0


def test_what_float32_loses_is_kept() -> None:
    gradient, reference = torch.tensor([1.0]), torch.tensor([1.0 + 1e-12], dtype=torch.float64)
    assert float(agreement(gradient, reference).error) == pytest.approx(1e-12, rel=1e-3)


@PROPERTY
@given(shapes(), _dtypes, _seeds)
def test_a_direction_depends_on_its_seed_alone_and_is_as_large_as_the_weight(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int
) -> None:
    weight = filled(shape, dtype, seed, scale=3.0)
    first, again = (random_direction(weight, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert first.shape == weight.shape
    assert first.dtype == (torch.complex64 if dtype.is_complex else torch.float32)
    assert torch.equal(first, again)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=first.dtype)
    assert torch.allclose(first, noise * max(float(root_mean_square(weight)), 1e-3), rtol=1e-6, atol=0)


def test_a_weight_of_zeros_is_moved_too() -> None:
    weight = torch.zeros(1000, requires_grad=True)
    direction = random_direction(weight, torch.Generator().manual_seed(0))
    assert float(root_mean_square(direction)) == pytest.approx(1e-3, rel=0.1)
    assert not direction.requires_grad


def test_drawing_a_direction_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    random_direction(torch.ones(3), torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
