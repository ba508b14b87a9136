from __future__ import annotations

import gc
import threading
import weakref
from collections import OrderedDict, UserDict, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from gradwatch.replica.batches import BatchKeeper, copy_batch
from gradwatch.replica.tensors import tensors_in


class Pair(NamedTuple):
    x: Any
    y: Any


@dataclass
class Example:
    x: Any


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Any


class Plain:
    """Any object with attributes."""

    def __init__(self, x: Any) -> None:
        self.x = x


class Hostile:
    """Refuses everything."""

    def __reduce_ex__(self, _: Any) -> Any:
        raise ValueError("no")

    def __deepcopy__(self, _: Any) -> Any:
        raise KeyError("no")


class Wrapped(UserDict[str, Any]):
    """As tokenizers return their batches."""


CONTAINERS: dict[str, Any] = {
    "tensor": lambda x: x,
    "list": lambda x: [x, 1],
    "tuple": lambda x: (x, "a"),
    "dict": lambda x: {"x": x},
    "ordered": lambda x: OrderedDict(x=x),
    "default": lambda x: defaultdict(list, x=x),
    "named": lambda x: Pair(x, None),
    "dataclass": Example,
    "frozen": Frozen,
    "plain": Plain,
    "mapping": lambda x: Wrapped(x=x),
    "deep": lambda x: [{"a": (Example(Plain([x])),)}],
}


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", CONTAINERS.values(), ids=CONTAINERS)
def test_a_copy_has_the_same_types_and_values_and_memory_of_its_own(wrap: Any) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    batch = wrap(x)
    copied = copy_batch(batch)
    (tensor,) = tensors_in(copied)
    assert type(copied) is type(batch)
    assert torch.equal(tensor, x)
    tensor.zero_()
    assert x.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


@pytest.mark.parametrize("computed", [False, True])
def test_tensors_that_need_a_gradient_become_leaves_that_do(*, computed: bool) -> None:
    x = torch.ones(2, requires_grad=True)
    copied = copy_batch([x * 2 if computed else x])[0]
    assert (copied.requires_grad, copied.is_leaf, copied.grad) == (True, True, None)


def test_shared_memory_stays_shared_and_no_more_than_needed_is_copied() -> None:
    data = torch.arange(1_000_000)
    copied = copy_batch({"early": data[:4], "x": data[10:16], "y": data[11:17], "late": data[900_000:900_004]})
    copied["x"][1] = -1
    assert copied["y"].tolist() == [-1, 12, 13, 14, 15, 16]
    assert int(data[11]) == 11
    assert sum(tensor.untyped_storage().nbytes() for tensor in copied.values()) < 4096


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.ones(3, 2).T,
        torch.ones(1).expand(1000),
        torch.arange(10)[::3],
        torch.empty(0, 3),
        torch.tensor(1 + 2j).conj(),
        torch.eye(3).to_sparse(),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(2, device="meta"),
    ],
    ids=["channels-last", "transposed", "expanded", "strided", "empty", "conjugated", "sparse", "bfloat16", "meta"],
)
def test_tensors_of_every_kind(tensor: Tensor) -> None:
    (copied,) = copy_batch([tensor])
    assert copied is not tensor
    assert (copied.shape, copied.dtype, copied.layout) == (tensor.shape, tensor.dtype, tensor.layout)
    assert tensor.is_meta or torch.equal(copied.to_dense(), tensor.to_dense())
    assert tensor.is_sparse or copied.stride() == tensor.stride()


def test_nested_tensors_packed_sequences_and_arrays() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    copied = copy_batch([nested, packed, np.ones(3)])
    for part in (copied[0].values(), copied[1].data, copied[2]):
        part[:] = 0
    assert [float(part.sum()) for part in nested.unbind()] == [2.0, 3.0]
    assert float(packed.data.sum()) == 5.0


def test_what_cannot_be_copied_is_shared_and_the_rest_is_copied() -> None:
    lock, hostile, x = threading.Lock(), Hostile(), torch.ones(2)
    copied = copy_batch({"lock": lock, "hostile": hostile, "x": Plain([x, lock])})
    assert copied["lock"] is lock
    assert copied["hostile"] is hostile
    assert copied["x"].x[0] is not x
    assert copied["x"].x[1] is lock


def test_it_never_raises() -> None:
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    assert copy_batch(nested) is nested
    itself: list[Any] = [torch.ones(1)]
    itself.append(itself)
    copied = copy_batch(itself)
    assert copied[1] is copied
    assert copied[0] is not itself[0]


def test_clones_go_to_the_device_that_is_asked_for() -> None:
    x = torch.arange(6.0)
    copied = copy_batch([x[:4], x[2:], nn.Parameter(x)], to=torch.device("meta"))
    assert [tensor.device.type for tensor in copied] == ["meta"] * 3
    assert copied[0].shape == (4,)


def test_a_batch_made_in_inference_mode_can_be_trained_on() -> None:
    with torch.inference_mode():
        batch = [torch.ones(2)]
        copied = copy_batch(batch)
    weight = torch.ones(2, requires_grad=True)
    (weight * copied[0]).sum().backward()
    assert weight.grad is not None


# -- the keeper --------------------------------------------------------------------------------------------------------


def test_tensors_are_kept_by_reference_while_nobody_writes() -> None:
    keeper = BatchKeeper()
    for number in range(1, 11):
        batch: Any = {"x": torch.ones(2), "y": [torch.ones(1)]}
        kept = keeper.keep(batch)
        assert (kept["x"] is batch["x"]) is (number > 1)  # of the first nobody knows yet
        assert (kept["y"][0] is batch["y"][0]) is (number > 1)
        keeper.check()
        assert not keeper.copies


@pytest.mark.parametrize("wrap", CONTAINERS.values(), ids=CONTAINERS)
@pytest.mark.parametrize("first", [1, 2, 4])
def test_a_step_that_writes_is_noticed_and_copies_are_kept_from_then_on(wrap: Any, first: int) -> None:
    keeper = BatchKeeper()
    for number in range(1, 8):
        x = torch.ones(2)
        kept = keeper.keep(wrap(x))
        if number >= first:
            x.add_(1)
        unexpected = number == first > 1  # the first is a copy in any case
        keeper.check()
        assert keeper.copies is (number >= first)
        (tensor,) = tensors_in(kept)
        assert (tensor is x) is (1 < number <= first)
        assert tensor.tolist() == ([2.0, 2.0] if unexpected else [1.0, 1.0])


def test_keys_that_a_step_takes_out_are_kept() -> None:
    keeper = BatchKeeper()
    batch: Any = {"x": [torch.ones(2)], "label": 1}
    kept = keeper.keep(batch)
    batch.pop("label")
    batch["x"].clear()
    assert kept["label"] == 1
    assert len(kept["x"]) == 1


def test_an_object_whose_attributes_change_is_noticed() -> None:
    keeper = BatchKeeper()
    batch = Plain(torch.ones(2))
    assert keeper.keep(batch) is not batch  # the first
    assert keeper.keep(batch) is batch
    batch.x = None
    keeper.check()
    assert keeper.copies
    assert keeper.keep(batch) is not batch


def test_a_loader_that_writes_between_the_batches_is_none_of_its_business() -> None:
    keeper = BatchKeeper()
    x = torch.ones(2)
    for _ in range(4):
        keeper.keep([x])
        keeper.check()
        x.add_(1)
    assert not keeper.copies


def test_nothing_is_kept_alive() -> None:
    keeper = BatchKeeper()
    keeper.keep([torch.ones(2)])  # of the first a copy is kept
    x = torch.ones(2)
    reference = weakref.ref(x)
    keeper.keep([x, Plain(x)])
    x.add_(1)
    keeper.check()
    del x
    gc.collect()
    assert reference() is None


def test_inference_tensors_have_no_version_and_do_no_harm() -> None:
    with torch.inference_mode():
        x = torch.ones(2)
    keeper = BatchKeeper()
    for _ in range(2):  # of the first a copy is kept
        keeper.keep([x, Plain(x)])
        keeper.check()
        assert not keeper.copies
