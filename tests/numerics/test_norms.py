from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.numerics import UNDERFLOW, exact_l2_norms, few_l2_norms, l2_norms, total_norm
from gradwatch.numerics.norms import _device_norms
from gradwatch.numerics.rows import FEW
from gradwatch.numerics.views import PIECE, real_values
from tests.numerics.tensors import (
    COMPLEX,
    EDGES,
    FLOATS,
    HALVES,
    PROPERTY,
    any_tensor,
    dense,
    filled,
    naive_norm,
    same_bits,
    sparse_rows,
)
from tests.numerics.watching import LargestResult, NoTransfers

NONFINITE = (math.nan, math.inf, -math.inf)
# In front of float32 tensors they lead to the rows; without them a few tensors are measured one by one.
MANY = [torch.ones(2)] * FEW


def _norms(tensors: list[torch.Tensor]) -> list[float]:
    """The norms of ``tensors``, which must not depend on how many others there are."""
    among_few, among_many = l2_norms(tensors).tolist(), l2_norms([*MANY, *tensors])[FEW:].tolist()
    assert among_many == pytest.approx(among_few, rel=1e-5, abs=0.0, nan_ok=True)
    return among_many


# --- l2_norms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [*NONFINITE, 1e30, 1e-30])
def test_a_few_tensors_have_the_same_norms_one_by_one(value: float) -> None:
    special = torch.full((3, 3), value)
    tensors = [
        torch.randn(300, 100),
        torch.randn(7, requires_grad=True),
        special,
        torch.randn(20, 30).t(),
        torch.zeros(0),
        torch.ones(()),
    ]
    few = few_l2_norms(tensors)
    assert few is not None
    assert same_bits(torch.tensor(few, dtype=torch.float64), l2_norms(tensors))


@pytest.mark.parametrize(
    "other",
    [
        torch.ones(2, dtype=torch.float16),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2).to_sparse(),
        torch.ones(2, device="meta"),
    ],
    ids=["half", "complex", "sparse", "other device"],
)
def test_one_by_one_is_for_plain_tensors_on_the_host(other: torch.Tensor) -> None:
    assert few_l2_norms([torch.ones(2)]) is not None
    assert few_l2_norms([torch.ones(2), other]) is None


def test_one_by_one_is_for_a_few_tensors() -> None:
    assert few_l2_norms([]) is None
    assert few_l2_norms(MANY) is not None
    assert few_l2_norms([*MANY, torch.ones(2)]) is None


@PROPERTY
@given(st.lists(any_tensor(), max_size=8))
def test_each_norm_is_that_of_float64(tensors: list[torch.Tensor]) -> None:
    norms = l2_norms(tensors)
    assert norms.dtype == torch.float64
    assert norms.shape == (len(tensors),)
    assert _norms(tensors) == pytest.approx([naive_norm(tensor) for tensor in tensors], rel=1e-5, abs=0.0)


@pytest.mark.parametrize("dtype", FLOATS + COMPLEX)
@pytest.mark.parametrize("elements", EDGES)
@pytest.mark.parametrize("seed", [1, 3])  # normal numbers, one number everywhere
def test_the_norm_is_precise_at_every_size(elements: int, dtype: torch.dtype, seed: int) -> None:
    tensor = filled((elements,), dtype, seed)
    assert _norms([tensor]) == pytest.approx([naive_norm(tensor)], rel=1e-5, abs=0.0)


@pytest.mark.parametrize("elements", [2048, 3072, 3073, 8192, 9216, 24_577])
def test_large_numbers_in_front_of_equal_ones_cost_no_digits(elements: int) -> None:
    """Each lane of a vector register begins with one: what is added to it afterwards is rounded the same way."""
    tensors = [torch.full((elements,), value) for value in (0.1, 0.7, 1 / 3, 1.1, 3e-5)]
    for tensor in tensors:
        tensor[:16] *= 60
    assert _norms(tensors) == pytest.approx([naive_norm(tensor) for tensor in tensors], rel=1e-5)


@pytest.mark.parametrize("seed", [1, 3])
def test_ten_million_elements_lose_nothing(seed: int) -> None:
    """A plain float32 vector_norm is off by 3e-4 (normal numbers) and 8e-3 (equal ones) here."""
    tensor = filled((10_000_000,), torch.float32, seed)
    expected = naive_norm(tensor)
    assert _norms([tensor]) == pytest.approx([expected], rel=1e-5)
    plain = torch.linalg.vector_norm(tensor).item()
    assert plain != pytest.approx(expected, rel=1e-5), "the reason for rows is gone"


@pytest.mark.parametrize("elements", [500, 4096, 8192, 8193])
def test_strided_numbers_lose_no_more_than_others(elements: int) -> None:
    """A plain float32 vector_norm has one accumulator for them, and is off by 5e-5 for one number 8192 times."""
    tensors = [torch.full((elements, 2), value / 7)[:, 0] for value in range(1, FEW)]
    assert _norms(tensors) == pytest.approx([naive_norm(tensor) for tensor in tensors], rel=1e-5)


def test_large_and_small_tensors_keep_their_places() -> None:
    sizes = (3, 20_000, 5, 0, 9_000, 128, 2**19, 1)
    tensors = [torch.full((size,), float(i + 1)) for i, size in enumerate(sizes)]
    expected = [(i + 1) * math.sqrt(size) for i, size in enumerate(sizes)]
    assert _norms(tensors) == pytest.approx(expected, rel=1e-6)


def test_many_small_tensors_fill_several_batches() -> None:
    tensors = [torch.full((size,), 2.0) for size in range(1, 900, 3)]
    expected = [2.0 * math.sqrt(size) for size in range(1, 900, 3)]
    assert _norms(tensors) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", range(1, 14))
@pytest.mark.parametrize("size", [4000, 8000, 8192])
def test_a_batch_may_end_anywhere(count: int, size: int) -> None:
    norms = _norms([torch.full((size,), float(i)) for i in range(1, count + 1)])
    assert norms == pytest.approx([i * math.sqrt(size) for i in range(1, count + 1)], rel=1e-6)


@PROPERTY
@given(st.sampled_from(EDGES[1:]), st.sampled_from(FLOATS + COMPLEX), st.sampled_from(NONFINITE), st.integers(0))
def test_a_nonfinite_element_always_reaches_the_norm(
    elements: int, dtype: torch.dtype, bad: float, position: int
) -> None:
    tensor, strided = filled((elements,), dtype, 1), filled((elements, 2), dtype, 1)[:, 0]
    tensor[position % elements] = strided[position % elements] = bad
    norms = _norms([torch.ones(3), tensor, torch.ones(200), strided])
    assert [math.isfinite(norm) for norm in norms] == [True, False, True, False]


def test_a_nonfinite_imaginary_part_reaches_the_norm() -> None:
    assert not l2_norms([torch.tensor([1.0 + 0.0j, complex(0.0, math.nan)])]).isfinite().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_overflow_of_the_squares_is_infinite_never_wrong(dtype: torch.dtype) -> None:
    assert l2_norms([torch.full((5,), 1e30, dtype=dtype)]).item() == math.inf
    assert l2_norms([torch.full((5,), 1e18, dtype=dtype)]).item() == pytest.approx(math.sqrt(5) * 1e18, rel=1e-2)


def test_half_precision_is_accumulated_in_float32() -> None:
    assert l2_norms([torch.full((4,), 60_000.0, dtype=torch.float16)]).item() == pytest.approx(120_000, rel=1e-3)


@pytest.mark.parametrize("elements", EDGES[1:])
def test_norms_above_the_underflow_mark_are_right(elements: int) -> None:
    tensor = torch.full((elements,), 3.0 * UNDERFLOW / math.sqrt(elements))
    assert _norms([tensor]) == pytest.approx([3.0 * UNDERFLOW], rel=1e-5, abs=0.0)


@pytest.mark.parametrize("dtype", FLOATS + COMPLEX)
def test_rows_that_occur_twice_in_a_sparse_gradient_are_summed(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.0], [2.0], [4.0]], dtype=dtype)
    tensor = sparse_rows([5, 1, 5], values, 7)
    expected = [math.hypot(5.0, 2.0)] * 2
    assert l2_norms([tensor, tensor.coalesce()]).tolist() == pytest.approx(expected, rel=1e-6)


def test_channels_last_and_integer_and_nested_and_compressed() -> None:
    image = torch.randn(40, 16, 5, 5).to(memory_format=torch.channels_last)
    matrix = torch.tensor([[0.0, 3.0], [4.0, 0.0]])
    jagged = torch.nested.nested_tensor([torch.tensor([3.0]), torch.tensor([0.0, 4.0])], layout=torch.jagged)
    tensors = [image, torch.tensor([3, 4]), jagged, matrix.to_mkldnn(), torch.tensor([3.0, 4.0]).to(torch.float8_e5m2)]
    assert l2_norms(tensors).tolist() == pytest.approx([naive_norm(image), 5.0, 5.0, 5.0, 5.0], rel=1e-6)


@PROPERTY
@given(st.lists(any_tensor(), max_size=4))
def test_nothing_is_written_and_nothing_recorded(tensors: list[torch.Tensor]) -> None:
    before = [(tensor._version, tensor.detach().clone()) for tensor in tensors]
    for norms in (l2_norms(tensors), l2_norms([*MANY, *tensors]), exact_l2_norms(tensors)):
        assert not norms.requires_grad
    for tensor, (version, copy) in zip(tensors, before, strict=True):
        assert tensor._version == version
        assert tensor.is_sparse or same_bits(tensor, copy)


@PROPERTY
@given(st.lists(dense(), min_size=1, max_size=4))
def test_nothing_is_read_back_to_the_host(tensors: list[torch.Tensor]) -> None:
    with NoTransfers() as mode:
        total_norm(l2_norms([*MANY, *tensors]))  # a few of the CPU's own are measured on the host
        exact_l2_norms(tensors)
        _device_norms(real_values(tensors))
    assert mode.waits == []


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    tensors = [filled((size,), torch.float32, 1) for size in (2**21, 3_000_017, 5_000, 700_000)]
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(torch.cat((l2_norms(tensors), l2_norms([*MANY, *tensors]))))
    finally:
        torch.set_num_threads(threads)
    assert all(same_bits(result, results[0]) for result in results)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_needs_no_copy_of_a_large_tensor(dtype: torch.dtype) -> None:
    tensor = torch.ones(3_000_000, dtype=dtype)
    with LargestResult() as mode:
        l2_norms([tensor, tensor.view(1000, 3000).t()])
    assert 0 < mode.bytes <= 4 * PIECE


def test_an_expanded_tensor_is_never_written_out() -> None:
    with LargestResult() as mode:
        norm = l2_norms([torch.tensor(2.0).expand(4000, 1000)])
    assert norm.item() == pytest.approx(2.0 * math.sqrt(4e6), rel=1e-6)
    assert 0 < mode.bytes <= 4 * PIECE


@PROPERTY
@given(st.lists(any_tensor(), min_size=1, max_size=6))
def test_the_path_of_other_devices_agrees(tensors: list[torch.Tensor]) -> None:
    """It runs on any device; the CPU has a faster one. Small tensors only: the CPU's kernels do not sum in trees."""
    small = [value for value in real_values(tensors) if value.numel() <= 129]
    if small:
        expected = [naive_norm(value) for value in small]
        assert _device_norms(small).tolist() == pytest.approx(expected, rel=1e-5, abs=0.0)


def test_the_default_device_and_dtype_of_the_user_change_nothing() -> None:
    tensors = [torch.ones(5), torch.ones(9000)]
    expected = l2_norms(tensors)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            norms, exact, nothing = l2_norms(tensors), exact_l2_norms(tensors), l2_norms([])
    finally:
        torch.set_default_dtype(torch.float32)
    assert same_bits(norms, expected)
    assert exact.device.type == nothing.device.type == "cpu"


# --- exact_l2_norms ---------------------------------------------------------------------------------------------------


@PROPERTY
@given(dense((torch.float32, torch.bfloat16, torch.complex64), scales=(1e-42, 1e-30, 1e-15, 1.0, 1e15, 1e30)))
def test_exact_norms_of_single_precision(tensor: torch.Tensor) -> None:
    assert exact_l2_norms([tensor]).item() == pytest.approx(naive_norm(tensor), rel=1e-12, abs=0.0)


@PROPERTY
@given(dense((torch.float64, torch.complex128), scales=(1e-310, 1e-300, 1e-160, 1.0, 1e160, 1e300)))
def test_exact_norms_of_double_precision(tensor: torch.Tensor) -> None:
    assert exact_l2_norms([tensor]).item() == pytest.approx(naive_norm(tensor), rel=1e-12, abs=0.0)


@PROPERTY
@given(dense(), st.sampled_from(NONFINITE), st.integers(0))
def test_exact_norms_are_nonfinite_when_an_element_is(tensor: torch.Tensor, bad: float, position: int) -> None:
    if tensor.numel():
        tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
        tensor.view(-1)[position % tensor.numel()] = bad
        assert not exact_l2_norms([tensor]).isfinite().item()


@pytest.mark.parametrize("dtype", FLOATS + COMPLEX)
@pytest.mark.parametrize("elements", EDGES[-3:])
def test_exact_norms_of_several_pieces(elements: int, dtype: torch.dtype) -> None:
    tensor = filled((elements,), dtype, 1)
    strided = torch.stack((tensor, tensor), dim=-1)[..., 0]
    assert exact_l2_norms([tensor, strided]).tolist() == pytest.approx([naive_norm(tensor)] * 2, rel=1e-12)


@pytest.mark.parametrize("value", [1.7e308, -1.7e308])
def test_a_norm_above_the_largest_float_stays_finite(value: float) -> None:
    norm = exact_l2_norms([torch.full((100,), value, dtype=torch.float64)]).item()
    assert norm == torch.finfo(torch.float64).max


def test_exact_norms_of_nothing() -> None:
    assert exact_l2_norms([]).shape == (0,)
    assert exact_l2_norms([torch.zeros(0), torch.zeros(3), torch.zeros(0, dtype=torch.float64)]).tolist() == [0.0] * 3


# --- total_norm -------------------------------------------------------------------------------------------------------

_totals = st.lists(st.floats(0.0, 1e307, allow_subnormal=True), max_size=20)


@PROPERTY
@given(_totals)
def test_the_total_is_the_norm_of_norms(values: list[float]) -> None:
    total = total_norm(torch.tensor(values, dtype=torch.float64))
    assert total.shape == ()
    assert total.item() == pytest.approx(math.hypot(*values), rel=1e-14, abs=5e-324)


@PROPERTY
@given(_totals, st.lists(st.sampled_from([math.nan, math.inf]), min_size=1, max_size=2), st.integers(0))
def test_the_total_is_nonfinite_when_a_norm_is(values: list[float], bad: list[float], position: int) -> None:
    values[position % (len(values) + 1) : 0] = bad
    assert not total_norm(torch.tensor(values, dtype=torch.float64)).isfinite().item()


def test_float32_norms_are_added_in_float64() -> None:
    norms = torch.full((1_000_000,), 1e25)
    assert total_norm(norms).dtype == torch.float64
    assert total_norm(norms).item() == pytest.approx(float(norms[0]) * 1e3, rel=1e-12)


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_devices_mix_and_no_device_is_waited_for() -> None:
    tensors = [torch.randn(size, dtype=dtype) for size in (5, 10_000_000) for dtype in (torch.float32, torch.bfloat16)]
    on_gpu = [tensor.cuda() for tensor in tensors]
    torch.cuda.set_sync_debug_mode("error")
    try:
        norms = l2_norms(on_gpu)
        total = total_norm(norms)
        mixed = l2_norms([on_gpu[0], tensors[1], on_gpu[2], tensors[3]])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = [naive_norm(tensor) for tensor in tensors]
    assert norms.device.type == mixed.device.type == "cuda"
    assert norms.tolist() == pytest.approx(expected, rel=1e-5)
    assert total.item() == pytest.approx(math.hypot(*expected), rel=1e-5)
    assert mixed.tolist() == pytest.approx(expected, rel=1e-5)
    assert l2_norms([tensors[0], on_gpu[1]]).device.type == "cpu"
