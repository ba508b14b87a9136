from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.capture.parameters import ParameterGroup, group_parameters
from gradwatch.capture.sampling import SAMPLE, joined, layer_shares, sample, sampled


@pytest.mark.parametrize("count", [0, 1, SAMPLE, SAMPLE + 1, 3 * SAMPLE, 1_000_003])
def test_a_sample_is_bounded_and_spans_the_tensor(count: int) -> None:
    taken = sample(torch.arange(count))
    assert taken.numel() <= SAMPLE
    if count <= SAMPLE:
        assert taken.numel() == count
    else:
        assert taken.numel() > SAMPLE / 4
        assert taken[-1] > 0.99 * count


def test_every_column_of_a_matrix_is_looked_at() -> None:
    columns = torch.arange(1024).expand(1024, 1024)
    assert len(set(sample(columns).tolist())) == 1024


def test_strides_of_the_tensor_itself_are_followed() -> None:
    every_other = torch.arange(10 * SAMPLE)[1::2]
    taken = sample(every_other)
    assert taken[0] == 1
    assert set(taken.tolist()) <= set(every_other.tolist())


def test_sparse_and_complex_tensors_are_read_as_their_numbers() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 3]]), torch.tensor([1.0, 2.0]), (5,), check_invariants=True)
    assert sample(sparse).tolist() == [1.0, 2.0]
    assert sample(torch.tensor([1 + 2j])).tolist() == [1.0, 2.0]


def group_of(module: nn.Module) -> ParameterGroup:
    return group_parameters(module, [torch.optim.SGD(module.parameters(), lr=0.1)])[0]


def test_the_parts_of_a_layer_count_by_their_size() -> None:
    module = nn.Sequential(nn.Linear(200, 100), nn.Linear(2, 2))
    taken = sampled([0, 1], [torch.ones(100, 200), torch.zeros(100)])
    flat = joined(taken.pieces)
    shares = layer_shares(group_of(module), torch.ones_like(flat, dtype=torch.bool), flat > 0, taken)
    assert shares.tolist() == pytest.approx([20_000 / 20_100, np.nan], rel=1e-3, nan_ok=True)


def test_an_empty_parameter_takes_nothing_from_its_neighbour() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    taken = sampled([0, 1, 2], [torch.ones(4), torch.ones(0), torch.zeros(4)])
    flat = joined(taken.pieces)
    assert layer_shares(group_of(module), flat >= 0, flat > 0, taken).tolist() == [1.0, 0.0]
