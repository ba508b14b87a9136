from __future__ import annotations

import math

import pytest
import torch

from gradwatch.detectors.huge_gradient import SQUARE_OVERFLOWS, huge_gradient

AT = {"time": 1.0, "step": 7, "epoch": 1, "batch_idx": 3, "rank": 0}


def test_the_limit_is_where_squares_overflow() -> None:
    assert math.isinf(float(torch.tensor(SQUARE_OVERFLOWS * 1.05).square()))
    assert math.isfinite(float(torch.tensor(SQUARE_OVERFLOWS).square()))


@pytest.mark.parametrize("clipped", [True, False])
def test_the_finding_says_layer_norm_and_fate(*, clipped: bool) -> None:
    finding = huge_gradient(AT, "encoder.0", 1e30, clipped=clipped)
    assert (finding.code, finding.status, finding.severity) == ("huge-gradient", "opened", "warning")
    assert (finding.step, finding.since_step, finding.epoch, finding.batch_idx) == (7, 7, 1, 3)
    assert finding.layer == "encoder.0"
    fate = "It was clipped." if clipped else "It was not clipped, and Adam's second moment of it is infinite."
    assert finding.message == (
        f"The gradient of encoder.0 has a norm of 1e+30: finite, but its square overflows float32. {fate}"
    )
    assert finding.evidence["grad_norm"] == 1e30
    assert "clip" in finding.advice
