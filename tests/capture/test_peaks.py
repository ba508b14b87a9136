from __future__ import annotations

import math
from array import array

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.capture.parameters import ParameterGroup, group_parameters
from gradwatch.capture.peaks import AT_ONCE, Peaks


def group_of(module: nn.Module | None = None) -> ParameterGroup:
    module = module or nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    return group_parameters(module, [torch.optim.SGD(module.parameters(), lr=0.1)])[0]


@pytest.mark.parametrize("steps", [1, AT_ONCE - 1, AT_ONCE, 3 * AT_ONCE + 5])
def test_the_largest_are_those_of_a_loop(steps: int) -> None:
    group, peaks = group_of(), Peaks()
    table = np.random.default_rng(0).exponential(size=(steps, 4)) * 10.0 ** np.arange(-3, 1)
    for row in table:
        peaks.add(group, array("d", row))
    largest = peaks.take(group)
    assert largest.parameters.tolist() == table.max(axis=0).tolist()
    assert largest.layers == pytest.approx(np.max([group.layer_norms(row) for row in table], axis=0), rel=1e-12)


def test_a_layer_is_as_large_as_at_one_step_and_no_larger() -> None:
    group, peaks = group_of(), Peaks()
    peaks.add(group, array("d", [3.0, 0.0, 1.0, 1.0]))
    peaks.add(group, array("d", [0.0, 4.0, 1.0, 1.0]))
    largest = peaks.take(group)
    assert largest.parameters.tolist() == [3.0, 4.0, 1.0, 1.0]
    assert largest.layers == pytest.approx([4.0, math.sqrt(2)])


def test_what_is_not_finite_is_left_out() -> None:
    group, peaks = group_of(), Peaks()
    peaks.add(group, array("d", [1.0, 0.0, math.inf, 5.0]))
    peaks.add(group, array("d", [math.nan, 2.0, 0.5, 0.0]))
    largest = peaks.take(group)
    assert largest.parameters.tolist() == [1.0, 2.0, 0.5, 5.0]
    assert largest.layers.tolist() == [1.0, 0.5]


def test_a_loud_step_hides_no_quiet_one() -> None:
    group, peaks = group_of(), Peaks()
    peaks.add(group, array("d", [1e300, 0.0, 0.0, 0.0]))
    peaks.add(group, array("d", [0.0, 0.0, 1e-300, 0.0]))
    assert peaks.take(group).layers.tolist() == [1e300, 1e-300]


def test_each_call_begins_anew() -> None:
    group, peaks = group_of(), Peaks()
    peaks.add(group, array("d", [9.0] * 4))
    peaks.take(group)
    assert peaks.take(group).layers.tolist() == [0.0, 0.0]
    peaks.add(group, array("d", [1.0] * 4))
    assert peaks.take(group).parameters.tolist() == [1.0] * 4


def test_norms_of_other_parameters_are_forgotten() -> None:
    small, peaks = group_of(nn.Linear(2, 2)), Peaks()
    peaks.add(small, array("d", [7.0, 7.0]))
    group = group_of()
    peaks.add(group, array("d", [1.0] * 4))
    assert peaks.take(group).parameters.tolist() == [1.0] * 4
    assert peaks.take(small).parameters.tolist() == [0.0, 0.0]
