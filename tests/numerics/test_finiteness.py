from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.numerics import nonfinite_counts, summarize
from tests.numerics.tensors import COMPLEX, FLOATS, PROPERTY, any_tensor, dense, filled, same_bits, sparse_rows
from tests.numerics.watching import NoTransfers

FLOAT8 = [
    dtype for name in dir(torch) if name.startswith("float8") and isinstance(dtype := getattr(torch, name), torch.dtype)
]
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.uint16)

_special = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -2.5, 60_000.0])
_values = st.lists(_special, max_size=40)


def _complex(values: list[float]) -> np.ndarray:
    return np.array([complex(*pair) for pair in zip(values, reversed(values), strict=True)], dtype=np.complex128)


# --- counts and verdict -----------------------------------------------------------------------------------------------


@PROPERTY
@given(st.lists(_values, max_size=5), st.sampled_from(FLOATS))
def test_counts_are_those_of_numpy(lists: list[list[float]], dtype: torch.dtype) -> None:
    tensors = [torch.tensor(values, dtype=dtype) for values in lists]
    arrays = [np.array(values, dtype=np.float64) for values in lists]
    expected = [[np.isnan(a).sum(), np.isposinf(a).sum(), np.isneginf(a).sum()] for a in arrays]
    counts = nonfinite_counts(tensors)
    assert counts.dtype == torch.int64
    assert counts.shape == (len(lists), 3)
    assert counts.tolist() == expected
    assert nonfinite_counts(tensors).any(dim=1).tolist() == [any(row) for row in expected]


@PROPERTY
@given(_values, st.sampled_from(COMPLEX))
def test_a_complex_number_counts_wherever_a_part_does(values: list[float], dtype: torch.dtype) -> None:
    array = _complex(values)
    tensor = torch.from_numpy(array).to(dtype)
    expected = [
        int((np.isnan(array.real) | np.isnan(array.imag)).sum()),
        int((np.isposinf(array.real) | np.isposinf(array.imag)).sum()),
        int((np.isneginf(array.real) | np.isneginf(array.imag)).sum()),
    ]
    assert nonfinite_counts([tensor]).tolist() == [expected]
    assert nonfinite_counts([tensor]).any(dim=1).tolist() == [any(expected)]


@PROPERTY
@given(st.lists(any_tensor(), max_size=6))
def test_healthy_tensors_of_every_kind_are_finite(tensors: list[torch.Tensor]) -> None:
    assert nonfinite_counts(tensors).any(dim=1).tolist() == [False] * len(tensors)
    assert nonfinite_counts(tensors).tolist() == [[0, 0, 0]] * len(tensors)


@PROPERTY
@given(
    st.sampled_from([1, 15, 16, 17, 4096, 70_001]),
    st.sampled_from(FLOATS),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.integers(0),
)
def test_one_bad_element_is_enough(elements: int, dtype: torch.dtype, bad: float, position: int) -> None:
    tensor = filled((elements,), dtype, 1)
    tensor[position % elements] = bad
    assert nonfinite_counts([torch.zeros(2), tensor, tensor[:0]]).any(dim=1).tolist() == [False, True, False]


def test_finite_extremes_are_finite() -> None:
    """Neither squares nor the difference of the extremes may overflow into a false alarm."""
    limits = [torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype) for dtype in FLOATS]
    assert nonfinite_counts(limits).any(dim=1).tolist() == [False] * len(FLOATS)


@pytest.mark.parametrize("dtype", FLOAT8)
def test_eight_bit_floats(dtype: torch.dtype) -> None:
    healthy, bad = torch.tensor([1.0, 2.0]).to(dtype), torch.tensor([1.0, math.nan]).to(dtype)
    assert nonfinite_counts([healthy, bad]).any(dim=1).tolist() == [False, True]
    assert nonfinite_counts([healthy, bad]).tolist() == [[0, 0, 0], [1, 0, 0]]


def test_eight_bit_floats_with_infinities() -> None:
    bad = torch.tensor([math.inf, -math.inf, -math.inf]).to(torch.float8_e5m2)
    assert nonfinite_counts([bad]).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("dtype", [*INTEGERS, torch.float4_e2m1fn_x2])
def test_what_cannot_be_nonfinite_is_finite(dtype: torch.dtype) -> None:
    full = torch.zeros(8, dtype=torch.uint8).view(dtype)
    tensors = [full, torch.tensor(math.nan), full[:0]]
    assert nonfinite_counts(tensors).any(dim=1).tolist() == [False, True, False]
    assert nonfinite_counts(tensors).tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_other_layouts() -> None:
    sparse = sparse_rows([1, 1], torch.tensor([math.inf, -math.inf]), 3)
    with_nan = torch.tensor([[0.0, math.nan], [1.0, 0.0]])
    jagged = torch.nested.nested_tensor([torch.ones(2), with_nan[0]], layout=torch.jagged)
    tensors = [sparse, with_nan.to_mkldnn(), jagged, with_nan.t(), with_nan.expand(3, 2, 2)]
    assert nonfinite_counts(tensors).any(dim=1).tolist() == [True] * 5
    assert nonfinite_counts(tensors)[:, 0].tolist() == [1, 1, 1, 1, 3]  # inf - inf is NaN


def test_nothing_to_look_at() -> None:
    assert nonfinite_counts([]).shape == (0, 3)


@PROPERTY
@given(st.lists(dense(), min_size=1, max_size=4))
def test_nothing_is_written_recorded_or_read_back(tensors: list[torch.Tensor]) -> None:
    before = [tensor.detach().clone() for tensor in tensors]
    with NoTransfers() as mode:
        results = [nonfinite_counts(tensors), *summarize(tensors[0])]
    assert mode.waits == []
    assert not any(result.requires_grad for result in results)
    assert all(same_bits(a, b) for a, b in zip(tensors, before, strict=True))


# --- summary ----------------------------------------------------------------------------------------------------------


@PROPERTY
@given(_values, st.sampled_from(FLOATS))
def test_a_summary_is_that_of_numpy(values: list[float], dtype: torch.dtype) -> None:
    array = torch.tensor(values, dtype=dtype).double().numpy()
    finite = array[np.isfinite(array)]
    summary = [field.item() for field in summarize(torch.tensor(values, dtype=dtype))]
    expected = [finite.min(), finite.max()] if finite.size else [math.nan, math.nan]
    counts = [np.isnan(array).sum(), np.isposinf(array).sum(), np.isneginf(array).sum(), (array == 0).sum()]
    assert summary == pytest.approx([*expected, *counts], nan_ok=True, abs=0.0)


def test_the_fields_of_a_summary() -> None:
    summary = summarize(torch.tensor([[0.0, 7.0, math.nan], [-3.0, math.inf, -math.inf]]))
    assert {name: field.item() for name, field in summary._asdict().items()} == {
        "min": -3.0,
        "max": 7.0,
        "nan": 1,
        "posinf": 1,
        "neginf": 1,
        "zeros": 1,
    }
    assert all(field.shape == () for field in summary)


@pytest.mark.parametrize("dtype", COMPLEX)
def test_of_complex_numbers_the_magnitude_is_summarized(dtype: torch.dtype) -> None:
    tensor = torch.tensor([3.0 + 4.0j, 0.0j, complex(math.nan, 9.0), complex(0.0, math.inf), 0.6 + 0.8j], dtype=dtype)
    low, high, *counts = (field.item() for field in summarize(tensor))
    assert [low, high] == pytest.approx([0.0, 5.0])
    assert counts == [1, 1, 0, 1]


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float8_e5m2])
def test_integers_and_eight_bit_floats_have_a_range(dtype: torch.dtype) -> None:
    summary = summarize(torch.tensor([4.0, 0.0, 2.0]).to(dtype))
    assert [field.item() for field in summary] == [0.0, 4.0, 0, 0, 0, 1]


def test_a_mask_of_booleans() -> None:
    assert [field.item() for field in summarize(torch.tensor([True, False, False]))] == [0.0, 1.0, 0, 0, 0, 2]
