"""What gradwatch reads of a GradScaler's private members: a test that fails when torch changes them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch.capture.scaling import leave_to_scaler, scale_of, unscales_itself, will_skip


def setup(*, fused: bool = False, scale: float = 1024.0) -> tuple[nn.Parameter, torch.optim.Optimizer, Any]:
    parameter = nn.Parameter(torch.ones(3))
    return parameter, torch.optim.Adam([parameter], lr=0.1, fused=fused), torch.amp.GradScaler("cpu", init_scale=scale)


def backward(parameter: nn.Parameter, scaler: Any, factor: float = 1.0) -> None:
    scaler.scale((parameter * factor).sum()).backward()


def test_the_scale_is_read_without_changing_it() -> None:
    _, _, scaler = setup()
    scale = scale_of(scaler, torch.device("cpu"))
    assert (float(scale), scale.shape, scale.dtype) == (1024.0, (), torch.float32)
    assert scaler.get_scale() == 1024.0


@pytest.mark.parametrize("fused", [False, True])
def test_fused_optimizers_unscale_by_themselves(*, fused: bool) -> None:
    _, optimizer, _ = setup(fused=fused)
    assert unscales_itself(optimizer) == fused


@pytest.mark.parametrize(("factor", "skips"), [(1.0, False), (math.inf, True), (math.nan, True)])
def test_the_scaler_knows_after_unscaling_that_it_will_skip(factor: float, *, skips: bool) -> None:
    parameter, optimizer, scaler = setup()
    assert not will_skip(scaler, optimizer)
    backward(parameter, scaler, factor)
    scaler.unscale_(optimizer)
    assert will_skip(scaler, optimizer) == skips
    before = parameter.detach().clone()
    scaler.step(optimizer)
    assert torch.equal(parameter.detach(), before) == skips


def dropped(*, fused: bool, factor: float, finite: bool) -> tuple[bool, Tensor]:
    """Drop an update as the engine does; return who did it, and the weights afterwards."""
    parameter, optimizer, scaler = setup(fused=fused)
    backward(parameter, scaler, factor)
    if not fused:
        scaler.unscale_(optimizer)
    assert parameter.grad is not None
    left = leave_to_scaler(scaler, optimizer, [parameter.grad], finite=finite)
    if not left:
        parameter.grad = None
    scaler.step(optimizer)
    scaler.update()
    return left, parameter.detach()


@pytest.mark.parametrize(
    ("fused", "factor", "left"),
    [
        (False, math.inf, True),
        (False, 1.0, False),  # a bad loss with finite gradients: the scaler would step
        (True, math.inf, True),
        (True, 1.0, True),
    ],
    ids=["overflow", "finite", "fused-overflow", "fused-finite"],
)
def test_a_dropped_update_moves_nothing_and_raises_nothing(factor: float, *, fused: bool, left: bool) -> None:
    by_scaler, weights = dropped(fused=fused, factor=factor, finite=math.isfinite(factor))
    assert by_scaler == left
    assert weights.tolist() == [1.0, 1.0, 1.0]


def test_a_fused_optimizer_without_gradients_cannot_be_left_to_the_scaler() -> None:
    _, optimizer, scaler = setup(fused=True)
    assert not leave_to_scaler(scaler, optimizer, [], finite=True)
