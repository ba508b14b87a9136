"""What gradwatch reads of a GradScaler's private members: a test that fails when torch changes them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradwatch.capture.scaling import (
    SETTLED_STEPS,
    ScaleTrend,
    leave_to_scaler,
    scale_of,
    unscales_itself,
    will_skip,
)


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


# -- a loss scale that falls -----------------------------------------------------------------------------------------


def settled(scale: float, steps: int = SETTLED_STEPS) -> ScaleTrend:
    trend = ScaleTrend()
    for _ in range(steps):
        trend.good_step(scale)
    return trend


def falls(trend: ScaleTrend, scale: float, halvings: int) -> list[int]:
    """After how many halvings from ``scale`` an alarm was given."""
    return [n for n in range(halvings) if trend.overflow(scale / 2**n)]


@pytest.mark.parametrize("start", [2.0**16, 2.0**24, 1e30])
def test_a_scale_that_looks_for_its_level_gives_no_alarm_from_however_far(start: float) -> None:
    assert falls(ScaleTrend(), start, 120) == []


def test_a_scale_that_falls_after_it_held_gives_one_alarm() -> None:
    assert falls(settled(1024.0), 1024.0, 30) == [6]


def test_fewer_halvings_are_a_correction() -> None:
    assert falls(settled(1024.0), 1024.0, 6) == []


def test_a_scale_that_held_for_too_few_steps_has_no_level() -> None:
    assert falls(settled(1024.0, SETTLED_STEPS - 1), 1024.0, 30) == []
    assert falls(settled(1024.0, SETTLED_STEPS), 1024.0, 30) == [6]


def test_an_overflow_ends_the_streak_of_good_steps() -> None:
    trend = settled(1024.0, SETTLED_STEPS - 1)
    assert not trend.overflow(512.0)
    for _ in range(SETTLED_STEPS - 1):
        trend.good_step(512.0)
    assert falls(trend, 512.0, 30) == []


def test_good_steps_between_the_halvings_do_not_hide_the_fall() -> None:
    trend, scale, alarms = settled(1024.0), 1024.0, []
    for _ in range(12):
        alarms.append(trend.overflow(scale))
        scale /= 2
        for _ in range(SETTLED_STEPS - 1):
            trend.good_step(scale)
    assert alarms.index(True) == 6
    assert sum(alarms) == 1


def test_a_scale_that_holds_again_and_falls_again_gives_a_second_alarm() -> None:
    trend = settled(1024.0)
    assert falls(trend, 1024.0, 10) == [6]
    for _ in range(SETTLED_STEPS):
        trend.good_step(2.0)
    assert falls(trend, 2.0, 10) == [6]


def test_growth_raises_the_level_from_which_a_fall_is_counted() -> None:
    trend = settled(1024.0)
    for _ in range(SETTLED_STEPS):
        trend.good_step(4096.0)
    assert falls(trend, 4096.0, 10) == [6]


def test_a_step_without_a_scale_sets_no_level() -> None:
    trend = ScaleTrend()
    for _ in range(2 * SETTLED_STEPS):
        trend.good_step(None)
    assert falls(trend, 1024.0, 30) == []
