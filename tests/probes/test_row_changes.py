"""Which rows of a tensor have changed, where each sample has one row, several, or a column as well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradwatch.probes.row_changes import Change, compared, print_of

GENERATOR = torch.Generator().manual_seed(0)
PLACE, SAMPLES = 1, 4


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


def changed(before: Tensor, after: Tensor, *, dims: tuple[int, ...] = (0,), sorts: bool = False) -> Change:
    twice = [2 * size if dim in dims else size for dim, size in enumerate(before.shape)]
    prints = [print_of(tensor, twice, SAMPLES) for tensor in (before, after)]
    return compared(prints[0], prints[1], PLACE, SAMPLES, sorts=sorts)


def with_rows(before: Tensor, *rows: int, size: float = 1.0) -> Tensor:
    after = before.clone()
    for row in rows:
        after[row] += size * normal(*before.shape[1:])
    return after


@pytest.mark.parametrize(("rows", "kind"), [((), "same"), ((1,), "own"), ((1, 2), "others"), ((2,), "others")])
@pytest.mark.parametrize("shape", [(4, 3), (4,), (4, 2, 3)])
def test_one_row_a_sample(shape: tuple[int, ...], rows: tuple[int, ...], kind: str) -> None:
    x = normal(*shape)
    found = changed(x, with_rows(x, *rows))
    assert found.kind == kind
    assert found.others == len(set(rows) - {1}) * (kind == "others")


@pytest.mark.parametrize(("rows", "kind"), [((1, 5, 9), "own"), ((3, 4, 5), "own"), ((1, 2, 5, 9), "others")])
def test_several_rows_a_sample_wherever_they_lie(rows: tuple[int, ...], kind: str) -> None:
    x = normal(12, 3)
    assert changed(x, with_rows(x, *rows)).kind == kind


def test_the_batch_may_be_any_dimension() -> None:
    x = normal(5, 4, 3)
    assert changed(x, with_rows(x.transpose(0, 1), 1).transpose(0, 1), dims=(1,)).kind == "own"
    assert changed(x, with_rows(x.transpose(0, 1), 1, 3).transpose(0, 1), dims=(1,)).kind == "others"


def test_pairs_with_the_replaced_sample_may_change() -> None:
    x = normal(4, 4)
    pairs = x.clone()
    pairs[1] += 1
    pairs[:, 1] += 1
    assert changed(x, pairs, dims=(0, 1)).kind == "own"
    assert changed(x, x + 1, dims=(0, 1)).kind == "unknown"


def test_without_a_dimension_that_grows_nothing_is_known_of_a_change() -> None:
    x = normal(3)
    assert changed(x, x.clone(), dims=()).kind == "same"
    assert changed(x, x + 1, dims=()).kind == "unknown"


def test_round_off_and_what_is_small_beside_the_change_do_not_count() -> None:
    x = normal(4, 3)
    assert changed(x, x * (1 + 1e-9)).kind == "same"
    assert changed(x, with_rows(with_rows(x, 1, size=1e3), 2, size=1e-2)).kind == "own"
    found = changed(x, with_rows(with_rows(x, 1, size=10.0), 2, size=0.5))
    assert found.kind == "others"
    assert 0.001 < found.share < 0.5


def test_a_fixed_sum_hides_nothing() -> None:
    x = torch.softmax(normal(4, 3), dim=1)
    assert changed(x, x.roll(1, 1)).others == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_like_itself(value: float) -> None:
    x = normal(4, 3)
    x[2, 1] = value
    assert changed(x, x.clone()).kind == "same"
    assert changed(x, with_rows(x, 1)).kind == "own"


def test_samples_in_an_order_of_their_own_are_unknown() -> None:
    x = normal(4, 3)
    after = with_rows(x, 1)[[0, 2, 3, 1]]
    assert changed(x, after).kind == "others"
    assert changed(x, after, sorts=True).kind == "unknown"
    assert changed(x, x + normal(4, 3), sorts=True).kind == "others"


@pytest.mark.parametrize("twice", [(8, 6), (7, 3), (8,), None])
def test_what_grows_otherwise_than_the_batch_is_unknown(twice: tuple[int, ...] | None) -> None:
    x = normal(4, 3)
    assert print_of(x, twice, SAMPLES).rows is None
    one, two = print_of(x, twice, SAMPLES), print_of(x + 1, twice, SAMPLES)
    assert compared(one, two, PLACE, SAMPLES).kind == "unknown"


@pytest.mark.parametrize("tensor", [torch.eye(4).to_sparse(), torch.empty(4, 4, device="meta")])
def test_what_has_no_plain_rows_is_unknown(tensor: Tensor) -> None:
    assert print_of(tensor, (8, 4), SAMPLES).rows is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.bfloat16, torch.complex64])
def test_every_dtype_has_rows(dtype: torch.dtype) -> None:
    x = torch.zeros(4, 3, dtype=dtype)
    after = x.clone()
    after[1, 2] = 1
    assert changed(x, after).kind == "own"
