from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.capture.optimizer_state import below_epsilon
from gradwatch.capture.parameters import ParameterGroup, group_parameters

EPS = 1e-3
Make = Callable[[Any], torch.optim.Optimizer]


def trained(make: Make, steps: int = 3, size: float = 1.0, dtype: torch.dtype = torch.float32) -> ParameterGroup:
    """Gradients from far below to far above eps, a quarter of them zero."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 8)).to(dtype)
    optimizer = make(module.parameters())
    for _ in range(steps):
        for parameter in module.parameters():
            parameter.grad = size * EPS * torch.randn_like(parameter) * torch.randint(1, 40, parameter.shape) / 8
            parameter.grad.view(-1)[::4] = 0
        optimizer.step()
    return group_parameters(module, [optimizer])[0]


def naive(group: ParameterGroup, name: str, correction: float) -> list[float]:
    below, among = np.zeros(len(group.layers)), np.zeros(len(group.layers))
    for parameter, layer in zip(group.parameters, group.layer_index, strict=True):
        v = group.optimizer.state[parameter][name].double()
        below[layer] += int(((v / correction).sqrt() < EPS)[v > 0].sum())
        among[layer] += int((v > 0).sum())
    shares: list[float] = np.where(group.is_weight, below / among, np.nan).tolist()
    return shares


ADAM = 1 - 0.999**3
OPTIMIZERS: dict[str, tuple[Make, str, float]] = {
    "Adam": (lambda p: torch.optim.Adam(p, eps=EPS), "exp_avg_sq", ADAM),
    "AdamW": (lambda p: torch.optim.AdamW(p, eps=EPS, betas=(0.9, 0.9)), "exp_avg_sq", 1 - 0.9**3),
    "NAdam": (lambda p: torch.optim.NAdam(p, eps=EPS), "exp_avg_sq", ADAM),
    "amsgrad": (lambda p: torch.optim.Adam(p, eps=EPS, amsgrad=True), "max_exp_avg_sq", ADAM),
    "RAdam": (lambda p: torch.optim.RAdam(p, eps=EPS), "exp_avg_sq", 1.0),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, eps=EPS), "square_avg", 1.0),
}
# What makes their moments, of which three steps have filled a small part, comparable with eps.
UNCORRECTED = {"RAdam": 18.0, "RMSprop": 6.0}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_share_is_that_of_a_loop_in_float64(kind: str) -> None:
    make, name, correction = OPTIMIZERS[kind]
    group = trained(make, size=UNCORRECTED.get(kind, 1.0))
    expected = naive(group, name, correction)
    assert 0.01 < np.nanmin(expected) < np.nanmax(expected) < 0.99
    assert below_epsilon(group).tolist() == pytest.approx(expected, nan_ok=True)


def test_half_precision_states_do_not_overflow_into_a_verdict() -> None:
    group = trained(lambda p: torch.optim.Adam(p, eps=EPS), dtype=torch.bfloat16)
    assert below_epsilon(group).tolist() == pytest.approx(naive(group, "exp_avg_sq", ADAM), abs=0.02, nan_ok=True)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adamax, torch.optim.Adadelta, torch.optim.Adagrad])
def test_optimizers_that_do_not_divide_by_such_a_moment_are_not_known(kind: Make) -> None:
    assert np.isnan(below_epsilon(trained(kind))).all()


def test_before_the_first_step_nothing_is_known() -> None:
    assert np.isnan(below_epsilon(trained(torch.optim.Adam, steps=0))).all()


def test_each_parameter_group_has_its_own_eps() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    settings = [{"params": module[0].parameters(), "eps": 1.0}, {"params": module[1].parameters(), "eps": 0.0}]
    optimizer = torch.optim.Adam(settings)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    optimizer.step()
    assert below_epsilon(group_parameters(module, [optimizer])[0]).tolist() == [1.0, 0.0]


def test_a_layer_whose_moments_are_all_zero_is_not_known() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = torch.optim.Adam(module.parameters())
    for i, parameter in enumerate(module.parameters()):
        parameter.grad = torch.full_like(parameter, float(i < 2))
    optimizer.step()
    shares = below_epsilon(group_parameters(module, [optimizer])[0])
    assert shares.tolist() == pytest.approx([0.0, np.nan], nan_ok=True)
