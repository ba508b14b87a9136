from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from gradwatch.diagnosis.memory import (
    FINITE,
    Leaf,
    Memory,
    Special,
    can_be_nonfinite,
    holds_nan,
    is_mask,
    looks_deliberate,
    span,
    special_of,
)
from gradwatch.diagnosis.responsibility import Explanation
from gradwatch.diagnosis.trace import Identity, Record
from gradwatch.tracing.module_stack import Location

if TYPE_CHECKING:
    from gradwatch.diagnosis.memory import Read

INF, NAN = math.inf, math.nan


def record(name: str = "log") -> Record:
    identity = Identity(name, Location("", "Module"), None)
    return Record(1, identity, Special(nan=True), of_nan=Explanation(transition="finite->nan"))


def write(memory: Memory, tensor: Tensor, writer: Record | None, made_by: str = "op") -> None:
    memory.write(tensor, writer, made_by, from_weights=False)


def read(memory: Memory, tensor: Tensor) -> Read:
    [found] = memory.read([tensor])
    return found


# -- what a tensor holds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -2.0], FINITE),
        ([], FINITE),
        ([1.0, NAN], Special(nan=True)),
        ([INF], Special(posinf=True)),
        ([-INF, 0.0], Special(neginf=True)),
        ([INF, -INF], Special(posinf=True, neginf=True)),  # their sum is NaN
        ([NAN, -INF], Special(nan=True, neginf=True)),
        ([NAN, INF, -INF], Special(nan=True, posinf=True, neginf=True)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_kinds_of_bad_numbers_are_told_apart(values: list[float], expected: Special, dtype: torch.dtype) -> None:
    assert special_of(torch.tensor(values, dtype=dtype)) == expected


def test_the_largest_finite_numbers_are_finite() -> None:
    for dtype in (torch.float32, torch.float16, torch.float64):
        assert not special_of(torch.full((1000,), torch.finfo(dtype).max, dtype=dtype))


def test_the_largest_finite_numbers_beside_a_nan_are_no_infinities() -> None:
    """Their sum overflows."""
    x = torch.full((1000,), torch.finfo(torch.float32).max)
    x[7] = NAN
    assert special_of(x) == Special(nan=True)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0], False), ([INF, 1.0], False), ([INF, -INF], False), ([1.0, NAN], True), ([INF, NAN], True)],
)
def test_nan_is_told_from_infinities_that_add_up_to_it(values: list[float], *, expected: bool) -> None:
    assert holds_nan(torch.tensor(values)) == expected
    assert not holds_nan(torch.ones(2, dtype=torch.long))


def test_eight_bit_floats_are_looked_at_too() -> None:
    x = torch.tensor([1.0, NAN]).to(torch.float8_e5m2)
    assert special_of(x).nan
    assert not special_of(torch.ones(2).to(torch.float8_e5m2))


def test_integers_and_tensors_without_values_are_never_bad() -> None:
    assert not can_be_nonfinite(torch.ones(2, dtype=torch.int64))
    assert not can_be_nonfinite(torch.ones(2, device="meta"))
    assert can_be_nonfinite(torch.ones(2, dtype=torch.complex64))
    assert special_of(torch.ones(2, dtype=torch.bool)) == FINITE


def test_zeros_without_memory_are_read_as_zeros() -> None:
    """Forward-mode differentiation makes them; whoever looks into them ends the process."""
    zero = torch._efficientzerotensor(3)
    assert special_of(zero) == FINITE
    for keep in (False, True):
        [found] = Memory({}).read([zero], keep=keep)
        assert (found.special, found.before.tolist()) == (FINITE, [0.0, 0.0, 0.0])
        assert found.before.data_ptr()


def test_either_part_of_a_complex_number_can_be_bad() -> None:
    assert special_of(torch.complex(torch.ones(1), torch.full((1,), NAN))).nan


def test_the_stored_values_of_a_sparse_tensor_count() -> None:
    values = torch.tensor([1.0, NAN])
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), values, (4,), check_invariants=False)
    assert special_of(sparse).nan


# -- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "mask", "deliberate"),
    [
        ([0.0, -INF], True, True),
        ([1.0, 1.0, -INF], True, True),
        ([0.0, 0.5, -INF], False, False),
        ([0.0, INF], False, False),
        ([0.0, -INF, NAN], False, False),
        ([-INF, -INF], False, True),
        ([INF], False, True),
        ([INF, -INF], False, True),
        ([NAN], False, False),
    ],
)
def test_a_mask_is_minus_infinity_and_one_other_number(values: list[float], *, mask: bool, deliberate: bool) -> None:
    assert is_mask(torch.tensor(values)) == mask
    assert looks_deliberate(torch.tensor(values)) == deliberate


def test_a_mask_of_eight_bits_is_one() -> None:
    assert is_mask(torch.tensor([0.0, -INF]).to(torch.float8_e5m2))
    assert not is_mask(torch.tensor([0.0, 1.0, -INF]).to(torch.float8_e5m2))


def test_complex_numbers_are_no_mask() -> None:
    assert not is_mask(torch.tensor([0.0, -INF], dtype=torch.complex64))


# -- bytes -----------------------------------------------------------------------------------------------------------


def test_the_span_is_in_bytes_of_the_storage() -> None:
    base = torch.zeros(4, 6, dtype=torch.float64)
    assert span(base) == (0, 192)
    assert span(base[1]) == (48, 96)
    assert span(base[:, 2]) == (16, 16 + 3 * 48 + 8)
    assert span(base[3, 5]) == (184, 192)
    assert span(base.T) == (0, 192)
    assert span(torch.ones(3).expand(5, 3)) == (0, 12)


# -- who has written -------------------------------------------------------------------------------------------------


def test_a_bad_result_is_remembered_until_it_is_overwritten() -> None:
    memory, x, writer = Memory({}), torch.full((3,), NAN), record()
    write(memory, x, writer)
    assert read(memory, x).writers == [writer]
    write(memory, x.zero_(), None)
    assert read(memory, x).writers == []


def test_what_a_part_holds_is_looked_at_again_after_a_write() -> None:
    memory, x, writer = Memory({}), torch.tensor([NAN, INF, 1.0]), record()
    write(memory, x, writer)
    assert read(memory, x[:2]).special == Special(nan=True, posinf=True)
    assert read(memory, x[2:]).special == FINITE
    assert read(memory, x).special == Special(nan=True, posinf=True)
    write(memory, x[:1].zero_(), None)
    assert read(memory, x[:2]).special == Special(posinf=True)
    assert read(memory, x).special == Special(posinf=True)


def test_parts_of_a_storage_are_remembered_apart() -> None:
    memory, x = Memory({}), torch.full((6,), NAN)
    first, second = record("first"), record("second")
    write(memory, x[:3], first)
    write(memory, x[3:], second)
    assert read(memory, x[:3]).writers == [first]
    assert read(memory, x[4]).writers == [second]
    assert read(memory, x[2:4]).writers == [first, second]
    x[:3] = 0.0
    write(memory, x[:3], None)
    assert read(memory, x).writers == [second]


def test_a_part_that_is_overwritten_in_part_stays_to_blame_for_the_rest() -> None:
    memory, x, writer = Memory({}), torch.full((4,), NAN), record()
    write(memory, x, writer)
    x[:2] = 0.0
    write(memory, x[:2], None)
    assert read(memory, x[2:]).writers == [writer]
    assert read(memory, x[:2]).writers == []


def test_a_storage_that_is_gone_leaves_no_blame_to_the_next_at_its_place() -> None:
    memory, used_twice = Memory({}), 0
    for _ in range(50):
        write(memory, bad := torch.full((10_000,), NAN), record())
        address = bad.data_ptr()
        del bad
        fresh = torch.full((10_000,), NAN)
        used_twice += fresh.data_ptr() == address
        assert all(isinstance(writer, Leaf) for writer in read(memory, fresh).writers)
    assert used_twice, "no memory has been used twice: the test shows nothing"


def test_an_entry_ends_with_its_storage_and_not_before() -> None:
    memory = Memory({})
    tensors = [torch.full((2,), NAN) for _ in range(4)]
    for tensor in tensors:
        write(memory, tensor, record())
    graph = (tensors.pop().requires_grad_() * torch.ones(2, requires_grad=True)).sum()  # holds the fourth
    view = tensors[0][1:]
    del tensors[0], tensor
    assert len(memory._entries) == 4
    tensors.clear()
    assert len(memory._entries) == 2
    assert read(memory, view).writers == [next(iter(memory._entries.values())).bad[0].writer]
    del view
    assert len(memory._entries) == 1
    del graph
    assert not memory._entries


def test_a_memory_that_is_gone_is_not_told_of_storages() -> None:
    memory, x = Memory({}), torch.ones(2)
    write(memory, x, None)
    gone = weakref.ref(memory)
    del memory
    assert gone() is None  # at once: no cycle holds it
    del x


def test_the_values_from_before_are_kept_for_an_operation_that_overwrites() -> None:
    memory, x = Memory({}), torch.ones(2)
    [kept], [same] = memory.read([x], keep=True), memory.read([x])
    x.zero_()
    assert kept.before.tolist() == [1.0, 1.0]
    assert same.before is x


def test_the_name_of_the_operation_that_made_an_input_is_known() -> None:
    memory, x = Memory({}), torch.ones(2)
    assert read(memory, x).made_by == ""
    write(memory, x, None, "softmax")
    assert read(memory, x).made_by == "softmax"


def test_what_depends_on_weights_is_known() -> None:
    weight, x = nn.Parameter(torch.ones(2)), torch.ones(2)
    memory = Memory({("parameter", "w"): weight, ("batch", "batch"): x})
    assert read(memory, weight).from_weights
    assert not read(memory, x).from_weights
    memory.write(y := torch.ones(2), None, "mul", from_weights=True)
    assert read(memory, y).from_weights


# -- tensors from before the step ------------------------------------------------------------------------------------


def test_a_known_tensor_is_named_also_where_a_view_of_it_is_used() -> None:
    x = torch.zeros(3, 2)
    x[2, 0] = NAN
    memory = Memory({("batch", "batch['x']"): x})
    [found] = read(memory, x.view(-1)[3:]).writers
    assert isinstance(found, Leaf)
    assert (found.kind, found.name, found.bad_index, found.bad_rows) == ("batch", "batch['x']", [2, 0], [2])
    assert found.summary.shape == (3, 2)
    assert read(memory, x[:2]).writers == []


def test_of_two_names_of_one_storage_the_first_counts() -> None:
    x = torch.full((2,), NAN)
    [found] = read(Memory({("parameter", "a"): x, ("parameter", "b"): x}), x).writers
    assert isinstance(found, Leaf)
    assert found.name == "a"


@pytest.mark.parametrize(
    ("value", "shape", "is_number"), [(NAN, (), True), (-INF, (), True), (NAN, (1,), False), (1.0, (), False)]
)
def test_a_bad_tensor_without_dimensions_and_name_is_a_number(
    value: float, shape: tuple[int, ...], *, is_number: bool
) -> None:
    assert read(Memory({}), torch.full(shape, value)).is_number == is_number


def test_a_named_tensor_without_dimensions_is_no_number() -> None:
    x = torch.tensor(NAN)
    assert not read(Memory({("batch", "batch"): x}), x).is_number


def test_a_weight_that_was_bad_is_listed_once() -> None:
    weight = nn.Parameter(torch.tensor([1.0, NAN]))
    memory = Memory({("parameter", "w"): weight})
    assert memory.bad_weights == []
    for _ in range(2):
        read(memory, weight)
    assert [found.name for found in memory.bad_weights] == ["w"]


def test_uninitialised_memory_is_blamed_on_what_reserved_it_when_it_is_read() -> None:
    memory, x = Memory({}), torch.tensor([1.0, NAN])
    writer = Record(1, record("empty").identity, FINITE)
    memory.reserve([x], writer)
    [found] = read(memory, x).writers
    assert found is writer
    assert (found.transition, found.bad_index) == ("finite->nan", [1])
    assert found.of_infinity is None
    assert found.output is not None
    assert found.output.nan == 1


def test_uninitialised_memory_is_to_blame_for_each_kind() -> None:
    memory, x = Memory({}), torch.tensor([1.0, NAN, INF])
    writer = Record(1, record("empty").identity, FINITE)
    memory.reserve([x], writer)
    read(memory, x)
    assert [why and why.transition for why in (writer.of_nan, writer.of_infinity)] == ["finite->nan", "finite->inf"]


def test_uninitialised_memory_that_happens_to_be_good_is_not_blamed() -> None:
    memory, x = Memory({}), torch.ones(2)
    memory.reserve([x], record("empty"))
    assert read(memory, x).writers == []


def test_uninitialised_memory_that_has_been_written_is_its_writers() -> None:
    memory, x, writer = Memory({}), torch.full((2,), NAN), record("log")
    memory.reserve([x], record("empty"))
    write(memory, x, writer)
    assert read(memory, x).writers == [writer]
