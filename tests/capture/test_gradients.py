from __future__ import annotations

import math
import sys
from array import array
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradwatch.capture.gradients import Gradients, read_gradients, total_on_device, without_underflow
from gradwatch.capture.parameters import ParameterGroup, group_parameters
from gradwatch.numerics.rows import FEW


def group_with(*gradients: Tensor | None) -> ParameterGroup:
    """A group of parameters with these gradients, None for none."""
    parameters = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(2) if gradient is None else torch.zeros_like(gradient.to_dense()))
        parameter.grad = gradient
        parameters.append(parameter)
    return group_parameters(nn.ParameterList(parameters), [torch.optim.SGD(parameters, lr=0.1)])[0]


def full(value: float, size: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full((size,), value, dtype=dtype)


# -- healthy gradients -----------------------------------------------------------------------------------------------


def test_norms_and_total_are_those_of_float64() -> None:
    gradients = [torch.randn(7, 3), torch.randn(50), torch.randn(())]
    read = read_gradients(group_with(*gradients))
    expected = [float(gradient.double().norm()) for gradient in gradients]
    assert read.norms == pytest.approx(expected, rel=1e-6, abs=0)
    assert read.total == pytest.approx(math.hypot(*expected), rel=1e-6, abs=0)
    assert read.norms.typecode == "d"
    assert (read.finite, read.huge, read.counts) == (True, False, None)
    assert read.positions.tolist() == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 5, FEW, FEW + 1, 300])
def test_the_total_is_that_of_all(count: int) -> None:
    read = read_gradients(group_with(*[full(float(i), size=i) for i in range(1, count + 1)]))
    assert read.total == pytest.approx(math.sqrt(sum(i**3 for i in range(1, count + 1))), rel=1e-6, abs=0)


def test_nan_wins_over_infinity_in_the_total_as_in_pytorch() -> None:
    gradients = [full(math.inf), full(math.nan)]
    for several in (gradients, gradients[::-1], [full(1.0), *gradients]):
        group = group_with(*several)
        assert math.isnan(read_gradients(group).total)
        assert math.isnan(nn.utils.get_total_norm([parameter.grad for parameter in group.parameters]))  # type: ignore[misc]
    assert read_gradients(group_with(full(math.inf), full(1.0))).total == math.inf


def test_parameters_without_gradient_are_left_out() -> None:
    read = read_gradients(group_with(None, full(3.0, 1), None, full(4.0, 1)))
    assert read.positions.tolist() == [1, 3]
    assert read.norms.tolist() == [3.0, 4.0]
    assert read.total == 5.0


def test_no_gradient_at_all_is_zero() -> None:
    read = read_gradients(group_with(None, None))
    assert (read.tensors, read.total, read.extras, read.finite) == ([], 0.0, [], True)
    assert read.positions.tolist() == read.norms.tolist() == []


@pytest.mark.parametrize(
    "gradient",
    [
        full(2.0, dtype=torch.float64),
        full(2.0, dtype=torch.bfloat16),
        full(2.0, dtype=torch.float16),
        torch.full((4,), 2.0, dtype=torch.complex64),
        torch.diag(full(2.0)).to_sparse(),
        torch.sparse_coo_tensor(torch.tensor([[0, 0]]), torch.tensor([2.0, 2.0]), (4,), check_invariants=True),
        full(2.0, 8)[::2],
        torch.zeros(0),
    ],
    ids=["float64", "bfloat16", "float16", "complex", "sparse", "uncoalesced", "strided", "empty"],
)
def test_any_kind_of_gradient(gradient: Tensor) -> None:
    read = read_gradients(group_with(gradient))
    assert read.norms.tolist() == [4.0 if gradient.numel() else 0.0]
    assert read.finite


def test_extras_travel_along_in_order_and_any_dtype() -> None:
    extras = [torch.tensor(1.5), torch.tensor([2.5], dtype=torch.bfloat16), torch.tensor(math.nan), torch.tensor(3)]
    for group in (group_with(full(1.0)), group_with(None)):
        values = read_gradients(group, extras).extras
        assert values == pytest.approx([1.5, 2.5, math.nan, 3.0], nan_ok=True)


def test_from_a_device_norms_and_extras_come_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    group = group_with(full(3.0, 1), None, full(4.0, 1))
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda _: False))  # what the packing asks for
    read = read_gradients(group, [torch.tensor(1.5), torch.tensor([2], dtype=torch.int64)])
    assert (read.norms.tolist(), read.total, read.extras) == ([3.0, 4.0], 5.0, [1.5, 2.0])
    assert read_gradients(group_with(None), [torch.tensor(1.5)]).extras == [1.5]
    assert read_gradients(group).norms.tolist() == [3.0, 4.0]


def test_gradients_of_gradients_may_require_grad() -> None:
    """``backward(create_graph=True)`` leaves gradients that are part of a graph themselves."""
    parameter = nn.Parameter(torch.ones(1))
    group = group_parameters(nn.ParameterList([parameter]), [torch.optim.SGD([parameter], lr=0.1)])[0]
    gradient = torch.ones(1, requires_grad=True) * 3
    parameter.grad = gradient
    read = read_gradients(group, [torch.ones(())])
    assert (read.total, read.extras) == (3.0, [1.0])


def test_reading_changes_nothing() -> None:
    gradients = [torch.randn(5), torch.randn(3).to_sparse()]
    before = [gradient.clone() for gradient in gradients]
    group = group_with(*gradients)
    read_gradients(group)
    total_on_device(group)
    assert all(torch.equal(a.to_dense(), b.to_dense()) for a, b in zip(gradients, before, strict=True))


# -- bad ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "column"), [(math.nan, 0), (math.inf, 1), (-math.inf, 2)], ids=["nan", "posinf", "neginf"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_one_bad_element_is_found_and_counted(value: float, column: int, dtype: torch.dtype) -> None:
    bad = full(1.0, 1000, dtype)
    bad[617] = value
    read = read_gradients(group_with(full(1.0), None, bad))
    assert not read.finite
    assert not read.huge
    assert not math.isfinite(read.total)
    assert read.counts is not None
    expected = [[0, 0, 0], [0, 0, 0]]
    expected[1][column] = 1
    assert read.counts.tolist() == expected
    assert read.norms[0] == 2.0


def test_a_bad_element_beside_a_huge_one_is_bad() -> None:
    read = read_gradients(group_with(full(1e30), torch.tensor([math.nan])))
    assert not read.finite


def test_an_extra_that_is_bad_does_not_make_the_gradients_bad() -> None:
    assert read_gradients(group_with(full(1.0)), [torch.tensor(math.inf)]).finite


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("value", [1e19, 1e25, 1e30, 3e38])
def test_a_huge_gradient_keeps_a_finite_norm(value: float, size: int) -> None:
    read = read_gradients(group_with(full(value, size), full(1.0)))
    exact = math.sqrt(size) * float(torch.tensor(value).double())
    assert read.finite
    assert read.total == pytest.approx(exact, rel=1e-6, abs=0)
    assert read.norms[1] == pytest.approx(2.0)


@pytest.mark.parametrize("size", [1, 4, 5000, 30_000])
def test_one_element_is_enough_for_a_huge_gradient(size: int) -> None:
    gradient = full(1.0, size)
    gradient[size // 2] = 1e30
    read = read_gradients(group_with(gradient, full(2.0)))
    assert (read.finite, read.huge) == (True, True)
    assert read.total == pytest.approx(1e30)


def test_squares_of_float64_overflow_later() -> None:
    read = read_gradients(group_with(full(1e30, dtype=torch.float64)))
    assert (read.finite, read.huge) == (True, False)
    assert read.total == pytest.approx(2e30)
    assert read_gradients(group_with(full(1e200, dtype=torch.float64))).huge


def test_huge_says_that_a_square_overflows_float32() -> None:
    assert read_gradients(group_with(full(1e30))).huge
    assert not read_gradients(group_with(full(1e18))).huge


def test_float64_gradients_may_be_larger_still() -> None:
    read = read_gradients(group_with(full(1e200, 4, torch.float64)))
    assert read.total == pytest.approx(2e200)
    assert read.huge


def test_a_total_above_the_largest_float64_is_that_number() -> None:
    read = read_gradients(group_with(*[full(1.7e308, dtype=torch.float64)] * 2))
    assert (read.finite, read.huge, read.total) == (True, True, sys.float_info.max)


# -- norms that vanish -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1e-25, 1e-30, 1e-38])
def test_norms_that_vanish_are_measured_again(value: float) -> None:
    tiny = full(value)
    measured = read_gradients(group_with(tiny, full(1.0), torch.zeros(3)))
    exact = without_underflow(measured)
    assert exact.norms == pytest.approx([2 * float(tiny.double()[0]), 2.0, 0.0], rel=1e-6, abs=0)


def test_the_total_of_gradients_that_all_vanish_is_measured_again() -> None:
    exact = without_underflow(read_gradients(group_with(full(1e-30), full(1e-30))))
    assert exact.total == pytest.approx(math.sqrt(8) * 1e-30, rel=1e-6, abs=0)


def test_measuring_again_honours_the_loss_scale() -> None:
    measured = read_gradients(group_with(full(1e-30))).divided_by(1024.0)
    exact = without_underflow(measured, 1024.0)
    assert exact.norms[0] == pytest.approx(2e-30 / 1024, rel=1e-6, abs=0)
    assert exact.total == pytest.approx(2e-30 / 1024, rel=1e-6, abs=0)


def test_norms_that_are_large_enough_are_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError

    measured = read_gradients(group_with(full(1.0)))
    bad = read_gradients(group_with(full(math.nan), full(1e-30)))
    monkeypatch.setattr("gradwatch.capture.gradients.exact_l2_norms", fail)
    assert without_underflow(measured) is measured
    assert without_underflow(bad) is bad  # nothing to be exact about


def test_dividing_by_the_loss_scale() -> None:
    read = read_gradients(group_with(full(1024.0), full(2048.0))).divided_by(1024.0)
    assert read.norms.tolist() == [2.0, 4.0]
    assert read.total == pytest.approx(math.sqrt(20))


# -- without waiting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (math.nan, False), (math.inf, False)])
def test_the_total_on_the_device_shows_what_is_bad(value: float, *, finite: bool) -> None:
    total = total_on_device(group_with(full(1.0), torch.tensor([value]), None))
    assert total is not None
    assert total.shape == ()
    assert bool(total.isfinite()) == finite


def test_no_gradient_has_no_total_on_the_device() -> None:
    assert total_on_device(group_with(None)) is None


def test_the_tuple_says_whether_it_is_finite() -> None:
    read = Gradients([], np.zeros(0, dtype=np.intp), array("d"), 0.0, [], counts=np.ones((1, 3)))
    assert not read.finite
