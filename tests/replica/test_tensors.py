from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradwatch.replica.tensors import GAP, clone_together, tensors_in


def test_tensors_are_found_once_in_nested_objects() -> None:
    x, y = torch.ones(1), torch.zeros(1)
    itself: list[Any] = [x, {"y": (y, x)}]
    itself.append(itself)
    holder = nn.Module()
    vars(holder)["extra"] = itself
    assert [id(tensor) for tensor in tensors_in([holder])] == [id(x), id(y)]
    assert list(tensors_in([holder], objects=False)) == []


@given(
    views=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 40), st.integers(1, 3)), min_size=1, max_size=6),
    permutation=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_clones_have_the_values_and_share_what_the_originals_share(
    views: list[tuple[int, int, int]], permutation: Any
) -> None:
    data = torch.arange(4000)
    originals = [data[start : start + size * step : step] for start, size, step in views]
    permutation.shuffle(originals)
    clones = clone_together(originals)
    assert data.tolist() == list(range(4000))
    for original, clone in zip(originals, clones, strict=True):
        assert torch.equal(original, clone)
        assert original.stride() == clone.stride()
    for clone in clones:
        clone.neg_()
    for original in originals:
        original.neg_()
    for original, clone in zip(originals, clones, strict=True):
        assert torch.equal(original, clone)


def test_neighbours_stay_in_one_piece_and_distant_views_do_not() -> None:
    data = torch.zeros(10_000)
    far = 10 + GAP // 4 + 1
    near, next_, away = clone_together([data[:10], data[10:20], data[20 + far : 30 + far]])
    assert near.untyped_storage().data_ptr() == next_.untyped_storage().data_ptr()
    assert away.untyped_storage().data_ptr() != near.untyped_storage().data_ptr()


def test_different_dtypes_of_one_memory_and_their_alignment() -> None:
    data = torch.arange(100, dtype=torch.uint8)
    odd, floats = clone_together([data[3:20], data[4:20].view(torch.float32)])
    assert odd.tolist() == list(range(3, 20))
    assert torch.equal(floats, data[4:20].view(torch.float32))
    odd[1:5] = 0
    assert float(floats[0]) == 0.0
    assert floats.data_ptr() % 16 == data[4:].data_ptr() % 16
