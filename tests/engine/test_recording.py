from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from gradwatch.capture.gradients import read_gradients
from gradwatch.capture.history import History
from gradwatch.capture.parameters import ParameterGroup, group_parameters
from gradwatch.engine.recording import (
    PendingRecord,
    Position,
    TakenStep,
    Totals,
    begin_record,
    largest_layer,
    nonfinite_by_layer,
    spread,
)

if TYPE_CHECKING:
    from gradwatch.records import StepRecord

HEADER: dict[str, Any] = {"time": 1.0, "step": 3, "epoch": 1, "batch_idx": 2, "rank": 0}


def group_with(**gradients: float | None) -> ParameterGroup:
    """Layers of one weight of four numbers each; None for no gradient."""
    module = nn.Module()
    for name, value in gradients.items():
        layer = nn.Module()
        layer.weight = nn.Parameter(torch.ones(4))
        layer.weight.grad = None if value is None else torch.full((4,), value)
        module.add_module(name, layer)
    return group_parameters(module, [torch.optim.SGD(module.parameters(), lr=0.5)])[0]


def pending(group: ParameterGroup, coefficient: float = 1.0) -> PendingRecord:
    step = TakenStep(Position(3, 1, 2, 9), group, read_gradients(group), coefficient)
    totals = Totals(skipped_steps=4, nonfinite_steps=5, clip_rate=0.0)
    return begin_record(step, History(), loss=0.5, max_norm=1.0, totals=totals, fp16=False)


def finished(record: PendingRecord) -> StepRecord:
    return record.record(HEADER, record.measure(at_start=True))


def test_a_record_is_finished_after_the_step() -> None:
    group = group_with(a=1.0, b=None, c=2.0)
    begun = pending(group)
    group.optimizer.step()
    record = finished(begun)
    assert (record.step, record.epoch, record.batch_idx, record.log_step) == (3, 1, 2, 9)
    assert (record.loss, record.lr, record.lr_groups, record.skipped_steps) == (0.5, 0.5, [0.5], 4)
    assert record.grad_norm == pytest.approx(math.sqrt(20))
    assert record.clip.largest_layer == "c"
    assert {name: layer.grad_norm for name, layer in record.layers.items()} == {"a": 2.0, "b": None, "c": 4.0}
    assert {layer.weight_norm for layer in record.layers.values()} == {2.0}  # before the step
    assert {name: layer.update_ratio for name, layer in record.layers.items()} == {"a": 0.5, "b": 0.0, "c": 1.0}


def test_a_record_keeps_no_gradient_alive() -> None:
    assert pending(group_with(a=1.0)).step.gradients.tensors == []


def test_clipping_that_was_measured_instead_of_computed() -> None:
    group = group_with(a=1.0)
    record = finished(pending(group).clipped_to(0.5))
    assert (record.clip.coefficient, record.clip.clipped) == (0.25, True)
    record = finished(pending(group).clipped_to(2.0))
    assert (record.clip.coefficient, record.clip.clipped) == (1.0, False)


def test_gradients_of_zero_are_not_clipped_by_other_means() -> None:
    record = finished(pending(group_with(a=0.0)).clipped_to(0.0))
    assert (record.clip.coefficient, record.clip.clipped) == (1.0, False)


def test_a_step_without_gradients_has_no_norm() -> None:
    record = finished(pending(group_with(a=None)))
    assert (record.grad_norm, record.clip.largest_layer) == (None, None)


def test_norms_are_spread_over_all_parameters() -> None:
    group = group_with(a=None, b=1.0)
    assert spread(group, read_gradients(group)).tolist() == [0.0, 2.0]
    full = group_with(a=1.0)
    read = read_gradients(full)
    assert spread(full, read) is read.norms


def test_bad_elements_are_counted_by_layer() -> None:
    group = group_with(a=1.0, b=None, c=math.nan, d=-math.inf)
    assert nonfinite_by_layer(group, read_gradients(group)).tolist() == [0, 0, 4, 4]
    fine = group_with(a=1.0, b=None)
    assert np.array_equal(nonfinite_by_layer(fine, read_gradients(fine)), [0, 0])


@pytest.mark.parametrize(
    ("gradients", "expected"),
    [({"a": 1.0, "b": 2.0}, "b"), ({"a": 1.0, "b": math.nan}, "b"), ({"a": math.inf, "b": 1.0}, "a"), ({}, None)],
    ids=["largest", "nan", "inf", "none"],
)
def test_the_layer_with_the_largest_part(gradients: dict[str, float], expected: str | None) -> None:
    group = group_with(**gradients) if gradients else group_with(a=None)
    assert largest_layer(group, read_gradients(group)) == expected
