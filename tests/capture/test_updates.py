from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.capture.parameters import ParameterGroup, group_parameters
from gradwatch.capture.updates import layer_updates, weights_before


def group_of(module: nn.Module) -> ParameterGroup:
    return group_parameters(module, [torch.optim.SGD(module.parameters(), lr=0.1)])[0]


def two_layers(dtype: torch.dtype = torch.float32) -> Any:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).to(dtype)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-5), (torch.float64, 1e-7), (torch.bfloat16, 1e-5)])
def test_ratios_are_the_norms_of_change_over_weight(dtype: torch.dtype, rel: float) -> None:
    module = two_layers(dtype)
    group = group_of(module)
    old = [parameter.detach().clone() for parameter in group.parameters]
    before = weights_before(group)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.25)
    updates = layer_updates(group, before)
    for layer, (norm, ratio) in enumerate(zip(updates.norms, updates.ratios, strict=True)):
        was = torch.cat([weight.double().flatten() for weight in old[2 * layer : 2 * layer + 2]])
        now = torch.cat([parameter.detach().double().flatten() for parameter in module[layer].parameters()])
        assert ratio == pytest.approx(float((now - was).norm() / was.norm()), rel)
        assert norm == pytest.approx(float(was.norm()), rel=1e-5)


def test_a_step_that_does_not_move_is_exactly_zero() -> None:
    group = group_of(two_layers())
    assert layer_updates(group, weights_before(group)).ratios.tolist() == [0.0, 0.0]


def test_weights_of_zero_have_no_ratio() -> None:
    module = two_layers()
    with torch.no_grad():
        for parameter in module[1].parameters():
            parameter.zero_()
    group = group_of(module)
    before = weights_before(group)
    with torch.no_grad():
        module[1].bias.add_(1)
    assert layer_updates(group, before).ratios.tolist() == pytest.approx([0.0, np.nan], nan_ok=True)


def test_the_copies_do_not_follow_the_weights() -> None:
    module = two_layers()
    before = weights_before(group_of(module))
    with torch.no_grad():
        module[0].weight.add_(1)
    assert not torch.equal(before[0], module[0].weight)
    assert not before[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_unchanged_share_counts_elements_with_a_gradient(dtype: torch.dtype) -> None:
    module = two_layers(dtype)
    group, before = group_of(module), weights_before(group_of(module))
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        module[0].weight.grad[0] = 0  # the row that has no gradient does not count, moved or not
        module[0].weight[:3] += 1
        module[0].bias.grad = None
    unchanged = layer_updates(group, before).unchanged
    assert unchanged.tolist() == pytest.approx([4 / 12, 1.0])


def test_nothing_is_said_of_wide_weights_and_without_gradients() -> None:
    module: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, dtype=torch.bfloat16))
    module[0].weight.grad = torch.ones_like(module[0].weight)
    group = group_of(module)
    assert np.isnan(layer_updates(group, weights_before(group)).unchanged).all()
    module[1].bias.grad = torch.ones_like(module[1].bias)
    assert layer_updates(group, weights_before(group)).unchanged.tolist() == pytest.approx([np.nan, 1.0], nan_ok=True)


def test_a_gradient_in_another_order_of_memory_is_compared_element_by_element() -> None:
    module: Any = nn.Sequential(nn.Linear(4, 3, bias=False, dtype=torch.bfloat16))
    group, before = group_of(module), weights_before(group_of(module))
    module[0].weight.grad = torch.zeros(4, 3, dtype=torch.bfloat16).t()
    with torch.no_grad():
        module[0].weight.grad[0, 1] = 1
        module[0].weight[0, 1] += 1
    assert layer_updates(group, before).unchanged.tolist() == [0.0]
