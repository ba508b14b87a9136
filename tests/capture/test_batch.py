from __future__ import annotations

import time
from collections import OrderedDict, UserDict, deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from gradwatch.capture.batch import MAX_DEPTH, MAX_ITEMS, bad_tensors, batch_size_of, is_surely_finite, named_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pair(NamedTuple):
    x: Tensor
    y: Any


@dataclass
class Plain:
    x: Tensor
    meta: str = "a"


@dataclass(slots=True)
class Slotted:
    x: Tensor
    y: list[Tensor]


class Unsliceable(deque[Any]):
    """A sequence, as the registry has it, that cannot be sliced."""


class Hostile(UserDict[str, Any]):
    """Fails when it is opened."""

    def __iter__(self) -> Iterator[str]:
        message = "closed"
        raise RuntimeError(message)


class Partial:
    """Has attributes that were never set, and refuses others."""

    __slots__ = ("x",)

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def tensor(value: float = 1.0) -> Tensor:
    return torch.full((2,), value)


def names(batch: object) -> list[str]:
    return [name for name, _ in named_tensors(batch)]


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (tensor(), ["batch"]),
        ((tensor(), tensor()), ["batch[0]", "batch[1]"]),
        ([tensor(), [tensor()]], ["batch[0]", "batch[1][0]"]),
        ({"image": tensor(), 3: tensor()}, ["batch['image']", "batch[3]"]),
        (OrderedDict(a=(tensor(),)), ["batch['a'][0]"]),
        (UserDict({"input_ids": tensor()}), ["batch['input_ids']"]),
        (Pair(tensor(), {"b": tensor()}), ["batch.x", "batch.y['b']"]),
        (Plain(tensor()), ["batch.x"]),
        (Slotted(tensor(), [tensor()]), ["batch.x", "batch.y[0]"]),
        (SimpleNamespace(a=tensor(), b=Plain(tensor())), ["batch.a", "batch.b.x"]),
        (deque([tensor()]), ["batch[0]"]),
        (Unsliceable([tensor()]), ["batch[0]"]),
        ([tensor()] * 2, ["batch[0]", "batch[1]"]),
        (torch.nn.Parameter(tensor()), ["batch"]),
        (None, []),
        ("words", []),
        (b"bytes", []),
        (range(5), []),
        (3.0, []),
        (np.ones(3), []),
        ([], []),
        ({"path": ["a.png"], "n": 3, "none": None}, []),
        (Plain, []),
        (print, []),
    ],
    ids=lambda value: None if isinstance(value, list) else type(value).__name__,
)
def test_names_are_those_that_a_user_would_write(batch: object, expected: list[str]) -> None:
    assert names(batch) == expected


def test_a_packed_sequence_is_a_named_tuple() -> None:
    assert "batch.data" in names(pack_sequence([torch.ones(2), torch.ones(1)]))


# -- batches that are no plain containers ----------------------------------------------------------------------------


def test_an_object_that_refers_to_itself_ends() -> None:
    batch: dict[str, Any] = {"x": tensor()}
    batch["self"] = batch
    twins = SimpleNamespace(x=tensor())
    twins.other = SimpleNamespace(twin=twins, x=tensor())
    assert names(batch) == ["batch['x']"]
    assert names(twins) == ["batch.x", "batch.other.x"]


def test_a_web_of_objects_that_all_refer_to_one_another_takes_no_time() -> None:
    """Each path through 60 such objects would be 60**6 visits."""
    web = [SimpleNamespace(x=tensor()) for _ in range(60)]
    for node in web:
        node.others = web
    started = time.perf_counter()
    found = names(web)
    assert time.perf_counter() - started < 5
    assert len(found) == 60


def test_depth_is_bounded() -> None:
    batch: Any = tensor()
    for _ in range(MAX_DEPTH):
        batch = [batch]
    assert names(batch) == ["batch" + MAX_DEPTH * "[0]"]
    assert names([batch]) == []


def test_width_is_bounded() -> None:
    assert len(names([tensor()] * (MAX_ITEMS + 5))) == MAX_ITEMS
    assert len(names({i: tensor() for i in range(MAX_ITEMS + 5)})) == MAX_ITEMS


class Growing(list[Any]):
    """Makes its items when asked for them: they live for a moment only, and ids are used again."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __iter__(self) -> Iterator[Any]:
        return (Growing(self.depth - 1) if self.depth else tensor() for _ in range(3))


def test_containers_that_make_their_items_on_the_fly_are_read_whole() -> None:
    assert len(names(Growing(4))) == 3**5


@pytest.mark.parametrize("item", [Hostile(a=1), Partial(), Slotted.__new__(Slotted)], ids=["raises", "slots", "unset"])
def test_one_hostile_item_does_not_hide_the_others(item: object) -> None:
    assert names([item, tensor()]) == ["batch[1]"]


def test_the_shortest_name_of_an_object_counts() -> None:
    """Found again below its own depth, it would be cut off."""
    deep: Any = [[[tensor()]]]
    assert names([[[[[deep]]]], deep]) == ["batch[1][0][0][0]"]


# -- which of them are bad -------------------------------------------------------------------------------------------


def test_bad_tensors_are_counted_by_kind() -> None:
    x = torch.tensor([1.0, float("nan"), float("inf"), float("inf"), float("-inf")])
    found = bad_tensors({"good": torch.ones(3), "x": x, "labels": torch.arange(3)})
    assert [(bad.name, bad.nan, bad.posinf, bad.neginf) for bad in found] == [("batch['x']", 1, 2, 1)]
    assert found[0].tensor is x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_bad_tensors_of_every_dtype(dtype: torch.dtype) -> None:
    assert len(bad_tensors([torch.tensor([float("nan"), 1.0], dtype=dtype), torch.ones(2, dtype=dtype)])) == 1


def test_a_batch_without_tensors_is_fine() -> None:
    assert bad_tensors(["a", None]) == []
    assert bad_tensors(None) == []


def test_a_sparse_tensor_is_read() -> None:
    found = bad_tensors([torch.tensor([[0.0, float("nan")]]).to_sparse()])
    assert [bad.nan for bad in found] == [1]


# -- how many samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.ones(7, 2), 7),
        (torch.ones(0, 2), 0),
        ((torch.ones(7, 2), torch.ones(3)), 7),
        ([torch.ones(7), torch.ones(3)], 7),
        ({"image": torch.ones(7, 2), "label": torch.ones(7)}, 7),
        (UserDict({"input_ids": torch.ones(5, 9)}), 5),
        (Pair(torch.ones(4, 2), None), 4),
        ([({"x": torch.ones(6)}, 1), 2], 6),
        (torch.ones(3, 3).to_sparse(), 3),
        (torch.tensor(1.0), None),
        ((torch.tensor(1.0), torch.ones(3)), None),
        (None, None),
        ([], None),
        ((), None),
        ({}, None),
        ("words", None),
        (["a.png", torch.ones(3)], None),
        (range(5), None),
        (7, None),
        (np.ones(3), None),
        (iter([torch.ones(3)]), None),
        (Plain(torch.ones(3)), None),
    ],
    ids=map(str, range(22)),
)
def test_the_size_of_a_batch_is_that_of_its_first_tensor(batch: object, size: int | None) -> None:
    assert batch_size_of(batch) == size


def test_a_batch_that_holds_itself_has_no_size() -> None:
    batch: list[Any] = []
    batch.append(batch)
    assert batch_size_of(batch) is None


def test_the_search_for_a_size_ends() -> None:
    batch: Any = torch.ones(3)
    for _ in range(MAX_DEPTH - 1):
        batch = [batch]
    assert batch_size_of(batch) == 3
    assert batch_size_of([batch]) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_batch_is_surely_finite_where_nothing_bad_is_counted(bad: float, dtype: torch.dtype) -> None:
    good = [torch.ones(3, dtype=dtype), torch.arange(3), torch.empty(0), "a", None]
    assert is_surely_finite(good)
    assert not is_surely_finite([*good, torch.tensor([1.0, bad], dtype=dtype)])


def test_what_has_no_range_to_look_at_is_not_sure() -> None:
    for odd in (torch.ones(2, dtype=torch.complex64), torch.ones(2).to_sparse(), torch.ones(2).to(torch.float8_e5m2)):
        assert not is_surely_finite([odd])
    assert not is_surely_finite(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged))
