from __future__ import annotations

import math

import pytest
import torch

from gradwatch.probes.objectives import Objective
from gradwatch.probes.precision import Precision, compare, poor


def objective(**gradients: float) -> Objective:
    """An objective whose gradients have two elements, one of them 1."""
    tensors = {name: torch.tensor([1.0, value], dtype=torch.float64) for name, value in gradients.items()}
    return Objective("loss", 1.0, tensors, frozenset(gradients))


@pytest.mark.parametrize(
    ("precision", "error", "cosine", "expected"),
    [
        ("float32", 2e-6, 1.0, False),
        ("float32", 2e-3, 1.0, True),
        ("float64", 1e-8, 1.0, True),
        ("bfloat16", 0.14, 0.99, False),
        ("bfloat16", 0.35, 0.99, True),
        ("bfloat16", 0.2, 0.9, True),
        ("float16", 0.06, 1.0, False),
        (None, 0.35, 1.0, True),
        ("float32", math.nan, math.nan, True),
        ("float16", math.nan, math.nan, True),
        ("float16", math.inf, 1.0, True),
    ],
)
def test_what_a_format_accounts_for(precision: str | None, error: float, cosine: float, expected: bool) -> None:  # noqa: FBT001 - one row of a table
    assert Precision(error, cosine).is_poor(precision) is expected


def test_each_tensor_is_compared_with_its_reference() -> None:
    found = compare([objective(a=1.0, b=1.0)], [objective(a=1.0, b=0.0)])
    assert tuple(found["a"]) == pytest.approx((0.0, 1.0, math.sqrt(2 / 3)))
    assert found["b"].error == pytest.approx(1.0)
    assert found["b"].cosine == pytest.approx(math.sqrt(0.5))


def test_of_several_objectives_the_worst_counts() -> None:
    right, wrong = objective(a=1.0), objective(a=2.0)
    for trained in ([right, wrong], [wrong, right]):
        assert compare(trained, [right, right])["a"].error == pytest.approx(math.sqrt(0.5))


def test_a_tensor_that_hardly_has_a_gradient_is_left_out() -> None:
    reference = Objective("loss", 1.0, {"a": torch.ones(2), "b": torch.full((2,), 1e-12)}, frozenset("ab"))
    trained = Objective("loss", 1.0, {"a": torch.ones(2), "b": torch.zeros(2)}, frozenset("ab"))
    assert set(compare([trained], [reference])) == {"a"}


def test_tensors_without_a_gradient_in_one_of_the_two_are_left_out() -> None:
    assert set(compare([objective(a=1.0)], [objective(a=1.0, b=1.0)])) == {"a"}
    assert compare([], []) == {}
    assert compare([objective()], [objective()]) == {}


def test_the_worst_come_first() -> None:
    found = {"good": Precision(1e-7, 1.0), "bad": Precision(0.1, 1.0), "worse": Precision(0.5, 0.5)}
    assert poor(found, "float32") == ["worse", "bad"]
    assert poor(found, "bfloat16") == ["worse"]


def test_a_tensor_that_nearly_cancels_by_itself_is_no_gap() -> None:
    """As the bias where two terms of a differential equation meet, once that is nearly solved."""
    fine = {"weight": Precision(1e-5, 1.0, 0.99)}
    assert poor({**fine, "bias": Precision(0.02, 1.0, 0.01)}, "float32") == []
    assert poor({**fine, "bias": Precision(0.05, 1.0, 0.01)}, "float32") == ["bias"]
    assert poor({**fine, "bias": Precision(0.02, 1.0, 0.2)}, "float32") == ["bias"]
