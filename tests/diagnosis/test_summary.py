from __future__ import annotations

import math

import pytest
import torch

from gradwatch.diagnosis.summary import bad_rows, first_bad_index, summary_of


def test_a_tensor_without_any_finite_element_has_no_range() -> None:
    summary = summary_of(torch.full((2,), math.nan))
    assert (summary.min, summary.max, summary.nan) == (None, None, 2)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.tensor([1.0, 2.0]), None),
        (torch.tensor(math.nan), None),
        (torch.tensor([1.0, math.inf, math.nan]), [2]),
        (torch.tensor([[1.0, -math.inf], [2.0, 3.0]]), [0, 1]),
        (torch.tensor([[1.0, 2.0], [math.inf, 3.0]]).T, [0, 1]),
    ],
)
def test_the_first_nan_counts_before_infinities(tensor: torch.Tensor, expected: list[int] | None) -> None:
    assert first_bad_index(tensor) == expected


def test_rows_with_nan_hide_rows_with_infinities() -> None:
    x = torch.zeros(4, 2)
    x[1, 0], x[3, 1] = math.inf, math.nan
    assert bad_rows(x) == [3]
    x[3, 1] = 0.0
    assert bad_rows(x) == [1]
    assert bad_rows(torch.tensor(math.nan)) == []
