"""The baselines say what the tools themselves say, in the zoo's names."""

from __future__ import annotations

import pytest
import torch

from tests.zoo.baselines import Verdict, anomaly_mode, base_name, first_nonfinite, node_name
from tests.zoo.families import CASES

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("SqrtBackward0", "sqrt"),
        ("LogSoftmaxBackward0", "log_softmax"),
        ("Log1PBackward0", "log1p"),
        ("NativeLayerNormBackward0", "layer_norm"),
        ("MaxPool2DWithIndicesBackward0", "max_pool2d_with_indices"),
        ("PowBackward1", "pow"),
        ("StraightThroughBackward", "StraightThrough"),
    ],
)
def test_a_node_gets_the_name_of_its_operation(node: str, name: str) -> None:
    assert node_name(node) == name


@pytest.mark.parametrize(
    ("operation", "name"),
    [("_softmax", "softmax"), ("sqrt_", "sqrt"), ("nll_loss_forward", "nll_loss"), ("native_batch_norm", "batch_norm")],
)
def test_an_operation_gets_its_base_name(operation: str, name: str) -> None:
    assert base_name(operation) == name


def test_anomaly_mode_names_the_node_that_returned_nan() -> None:
    case = BY_NAME["magnitude-of-silence"]
    assert case.marked_line is not None
    assert anomaly_mode(case) == Verdict("sqrt", *case.marked_line, alarm=True)


def test_anomaly_mode_blames_the_neighbour_of_an_infinite_slope() -> None:
    said = anomaly_mode(BY_NAME["compression-of-a-silent-bin"])
    assert (said.alarm, said.op) == (True, "mul")


def test_anomaly_mode_is_silent_on_a_healthy_case_and_off_behind_it() -> None:
    assert anomaly_mode(BY_NAME["healthy-log-of-mask"]) == Verdict()
    assert not torch.is_anomaly_enabled()


def test_the_first_nonfinite_operation_may_be_the_culprit() -> None:
    case = BY_NAME["log1p-below-minus-one"]
    assert case.marked_line is not None
    assert first_nonfinite(case) == Verdict("log1p", *case.marked_line, alarm=True)


def test_the_first_nonfinite_operation_may_be_a_mask() -> None:
    said = first_nonfinite(BY_NAME["healthy-legal-moves"])
    assert (said.alarm, said.op) == (True, "masked_fill")


def test_the_first_nonfinite_operation_in_a_derivative_has_no_line() -> None:
    said = first_nonfinite(BY_NAME["perfect-reconstruction"])
    assert said == Verdict("div", None, None, alarm=True)
