from __future__ import annotations

import math

import pytest
import torch

from gradwatch.detectors.huge_gradient import SQUARE_OVERFLOWS
from gradwatch.observations import HugeGradient
from tests.detectors.findings import findings

AT = {"time": 1.0, "step": 7, "epoch": 1, "batch_idx": 3, "rank": 0}


def test_the_limit_is_where_squares_overflow() -> None:
    assert math.isinf(float(torch.tensor(SQUARE_OVERFLOWS * 1.05).square()))
    assert math.isfinite(float(torch.tensor(SQUARE_OVERFLOWS).square()))


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        ("clipped", "It was clipped."),
        ("kept", "It was not clipped: where an element is above 1.8e19, Adam's second moment of it is infinite."),
        ("zeroed", "The training loop clips by norm itself: clip_grad_norm_ makes every gradient zero of it."),
        ("left alone", "What becomes of it is up to the training loop's own clipping."),
    ],
)
def test_the_finding_says_layer_norm_and_fate(fate: str, words: str) -> None:
    (finding,) = findings("huge-gradient", [HugeGradient(**AT, layer="encoder.0", norm=1e30, fate=fate)])  # type: ignore[arg-type]
    assert (finding.code, finding.status, finding.severity) == ("huge-gradient", "opened", "warning")
    assert (finding.step, finding.since_step, finding.epoch, finding.batch_idx) == (7, 7, 1, 3)
    assert finding.layer == "encoder.0"
    assert finding.message == (
        f"The gradient of encoder.0 has a norm of 1e+30: finite, but its square overflows float32. {words}"
    )
    assert finding.evidence["grad_norm"] == 1e30
    assert "clip" in finding.advice


def test_what_is_said_of_clip_grad_norm_is_true() -> None:
    """Should torch learn to clip such gradients, the text must change."""
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1e30, 1.0])
    assert float(torch.nn.utils.clip_grad_norm_([parameter], 1.0)) == math.inf
    assert parameter.grad.tolist() == [0.0, 0.0]
