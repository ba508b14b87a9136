from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.numerics.views import flat_view, pieces, real_values
from tests.numerics.tensors import FLOATS, PROPERTY, dense, numbers


@PROPERTY
@given(dense(), st.integers(1, 300))
def test_pieces_make_up_the_tensor(tensor: torch.Tensor, size: int) -> None:
    found = list(pieces(tensor, size))
    assert all(piece.numel() <= size for piece in found)
    gathered = torch.cat([numbers(piece) for piece in found])
    if tensor.is_complex():
        gathered, expected = torch.view_as_real(gathered), torch.view_as_real(numbers(tensor).resolve_conj())
    else:
        expected = numbers(tensor)
    assert torch.equal(gathered.flatten().sort().values, expected.flatten().sort().values)


@pytest.mark.parametrize(
    ("tensor", "dense"),
    [
        (torch.rand(3, 4, 5), True),
        (torch.rand(3, 4, 5).permute(2, 0, 1), True),
        (torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last), True),
        (torch.rand(()), True),
        (torch.rand(0, 3), True),
        (torch.rand(6)[::2], False),
        (torch.rand(3, 1).expand(3, 4), False),
        (torch.rand(4, 4)[:, :3], False),
    ],
)
def test_a_dense_tensor_has_a_flat_view(tensor: torch.Tensor, *, dense: bool) -> None:
    flat = flat_view(tensor)
    assert (flat is not None) is dense
    if flat is not None:
        assert flat.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
        assert flat.sort().values.tolist() == tensor.flatten().sort().values.tolist()


def test_plain_tensors_are_passed_on_as_they_are() -> None:
    tensors = [torch.ones(2, dtype=dtype) for dtype in FLOATS]
    assert real_values(tensors) is tensors


def test_complex_numbers_become_pairs() -> None:
    (pair,) = real_values([torch.tensor([complex(1.0, math.nan)])])
    assert pair.shape == (1, 2)
    assert pair[0, 0] == 1.0
    assert pair[0, 1].isnan()
