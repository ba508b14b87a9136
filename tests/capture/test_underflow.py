from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.capture.gradients import read_gradients
from gradwatch.capture.parameters import ParameterGroup, group_parameters
from gradwatch.capture.underflow import subnormal


def two_layers() -> ParameterGroup:
    module = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))
    return group_parameters(module, [torch.optim.SGD(module.parameters(), lr=0.1)])[0]


@pytest.mark.parametrize("scale", [None, 1.0, 1024.0])
def test_the_share_is_that_of_a_loop_in_float64(scale: float | None) -> None:
    torch.manual_seed(0)
    group = two_layers()
    below, among = np.zeros(2), np.zeros(2)
    for parameter, layer in zip(group.parameters, group.layer_index, strict=True):
        parameter.grad = torch.randn_like(parameter) * 1e-4 / (scale or 1.0)
        parameter.grad.view(-1)[::3] = 0
        held = parameter.grad.double() * (scale or 1.0)
        below[layer] += int(((held != 0) & (held.abs() < 2.0**-14)).sum())
        among[layer] += int((held != 0).sum())
    shares = subnormal(group, read_gradients(group), scale)
    assert 0.1 < below[0] / among[0] < 0.9
    assert shares.tolist() == pytest.approx((below / among).tolist())


def test_the_smallest_normal_number_is_none_of_them() -> None:
    group = two_layers()
    for parameter in group.parameters:
        parameter.grad = torch.full_like(parameter, -(2.0**-14))
    assert subnormal(group, read_gradients(group), None).tolist() == [0.0, 0.0]
    assert subnormal(group, read_gradients(group), 0.5).tolist() == [1.0, 1.0]


def test_layers_without_gradient_are_not_known() -> None:
    group = two_layers()
    assert np.isnan(subnormal(group, read_gradients(group), None)).all()
    group.parameters[2].grad = torch.full_like(group.parameters[2], 1e-6)
    assert subnormal(group, read_gradients(group), None).tolist() == pytest.approx([np.nan, 1.0], nan_ok=True)
