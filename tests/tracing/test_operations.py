from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gradwatch.tracing.operations import literal_infinities, numbers_in, operation, tensors_in, written

aten = torch.ops.aten


def test_what_an_operation_writes_to_is_read_from_its_schema() -> None:
    assert operation(aten.add.Tensor).writes == ()
    assert operation(aten.add_.Tensor).writes == ((0, "self"),)
    assert operation(aten.log.out).writes == ((1, "out"),)
    assert [name for _, name in operation(aten.native_batch_norm.default).writes] == []


@pytest.mark.parametrize(
    ("overload", "view"),
    [
        (aten.view.default, True),
        (aten.transpose.int, True),
        (aten.split.Tensor, True),
        (aten.detach.default, True),
        (aten.add_.Tensor, False),
        (aten.clone.default, False),
        (aten.log.out, False),
        (aten._foreach_add_.Scalar, False),
    ],
)
def test_views_compute_nothing(overload: object, *, view: bool) -> None:
    assert operation(overload).view == view


@pytest.mark.parametrize(
    "overload",
    [
        aten.empty.memory_format,
        aten.empty_like.default,
        aten.new_empty.default,
        aten.empty_strided.default,
        aten.new_empty_strided.default,
        aten.empty_permuted.default,
    ],
)
def test_uninitialised_memory_is_known(overload: object) -> None:
    assert operation(overload).empty
    assert not operation(aten.zeros.default).empty


def test_pointwise_operations_are_known() -> None:
    pointwise = (aten.add.Tensor, aten.where.self, aten.masked_fill.Scalar, aten.log_.default, aten.mul.Tensor)
    others = (aten.sum.default, aten.mm.default, aten._softmax.default, aten.index_select.default)
    assert all(operation(overload).pointwise for overload in pointwise)
    assert not any(operation(overload).pointwise for overload in others)


@pytest.mark.parametrize(
    ("overload", "literal"),
    [
        (aten.full.default, True),
        (aten.fill_.Scalar, True),
        (aten.masked_fill_.Scalar, True),
        (aten.index_put_.default, True),
        (aten.scatter.value, True),
        (aten.constant_pad_nd.default, True),
        (aten.pow.Tensor_Scalar, False),
        (aten.clamp.default, False),
    ],
)
def test_operations_that_put_a_written_number_somewhere_are_known(overload: object, *, literal: bool) -> None:
    assert operation(overload).literal == literal


def test_collectives_are_known() -> None:
    import torch.distributed._functional_collectives  # noqa: PLC0415 - registers the namespace

    assert operation(torch.ops._c10d_functional.all_reduce.default).collective
    assert operation(torch.ops.c10d.allreduce_.default).collective
    assert not operation(aten.add.Tensor).collective


def test_tensors_are_found_in_nested_arguments() -> None:
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    assert [t.numel() for t in tensors_in((a, [b, None, 2.0]), {"out": (c,)})] == [1, 2, 3]


def test_what_is_written_is_found_by_position_and_by_name() -> None:
    x, y = torch.ones(1), torch.ones(2)
    assert written(operation(aten.log.out), (x,), {"out": y})[0] is y
    assert written(operation(aten.add_.Tensor), (x, y), {})[0] is x
    assert written(operation(aten.add.Tensor), (x, y), {}) == []
    lists: list[Tensor] = [x, y]
    assert [id(t) for t in written(operation(aten._foreach_add_.Scalar), (lists, 1.0), {})] == [id(x), id(y)]


def test_plain_numbers_are_found_without_booleans_and_numbers_too_long_for_a_float() -> None:
    assert numbers_in((1, [2.5, True], torch.ones(1)), {"value": -math.inf, "n": 10**400}) == [1.0, 2.5, -math.inf]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([], (False, False)),
        ([1.0, math.nan], (False, False)),
        ([math.inf], (True, False)),
        ([0.0, -math.inf], (False, True)),
        ([-math.inf, math.inf], (True, True)),
    ],
)
def test_written_infinities_are_told_apart_by_sign(numbers: list[float], expected: tuple[bool, bool]) -> None:
    assert literal_infinities(numbers) == expected
