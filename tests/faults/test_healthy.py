"""No false alarm: healthy look-alikes end without an incident, and as they do without the monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from gradwatch import NumericalHealthMonitor
from tests.faults.healthy import HEALTHY
from tests.noninterference.fingerprint import Bits, differences
from tests.noninterference.runs import Outcome, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cases import Case
    from tests.noninterference.fingerprint import Fingerprint


def holds_nonfinite(found: Fingerprint) -> bool:
    """Whether a weight or buffer is not finite at the end."""
    tensors = [bits for name, bits in found.items() if name.startswith(("weights/", "buffers/"))]
    floats = [bits.tensor() for bits in tensors if isinstance(bits, Bits) and bits.dtype.is_floating_point]
    return any(not torch.isfinite(tensor).all() for tensor in floats)


def left_out_steps(found: Fingerprint) -> bool:
    """Whether Adam has taken fewer steps than the Trainer counts."""
    return bool(found["optimizers/0/state/0/step"].tensor().item() < found["progress/global_step"])


def calibrated(found: Fingerprint) -> bool:
    """Whether the GradScaler has come down from where it began."""
    return float(found["scaler/scale"]) < 2.0**40


# What makes each of these look ill, as far as the end of the plain run shows it.
SIGNS: dict[str, Callable[[Any], bool]] = {
    "scaled": calibrated,
    "scaled_fused": calibrated,
    "later_overflow": left_out_steps,
    "returns_none": left_out_steps,
    "skips_bad_losses": left_out_steps,
    "masked_attention": holds_nonfinite,
    "forbidden_class": holds_nonfinite,
    "placeholders": holds_nonfinite,
    "moving_mask": holds_nonfinite,
    "growing_mask": holds_nonfinite,
    "nothing_matched": lambda found: bool(found["metrics/precision"].tensor().isnan()),
}


def check_quiet(case: Case, tmp_path: Path, plain: Outcome, **arguments: Any) -> None:
    """Fail on any incident or error finding, and on any influence on the training."""
    monitors = lambda: [NumericalHealthMonitor(clip=None, **arguments)]  # noqa: E731
    watched = run(case, tmp_path / "watched", monitors, log_every_n_steps=1)
    assert watched.of_type("incident") == []
    assert watched.failures == []
    assert [event for event in watched.of_type("finding") if event["severity"] == "error"] == []
    assert list(tmp_path.rglob("incident.json")) == []
    assert [event["status"] for event in watched.of_type("run_end")] == ["finished"]
    assert watched.of_type("step")
    assert differences(plain.fingerprint, watched.fingerprint) == []


@pytest.mark.parametrize("case", HEALTHY, ids=lambda case: case.name)
def test_no_false_alarm(case: Case, tmp_path: Path) -> None:
    plain = run(case, tmp_path / "plain", log_every_n_steps=1)
    assert SIGNS.get(case.name, lambda _: True)(plain.fingerprint)
    check_quiet(case, tmp_path, plain)


def test_no_false_alarm_while_skipping(tmp_path: Path) -> None:
    """Under ``skip`` too, which keeps copies of buffers: a mask that moves is not put back."""
    case = next(case for case in HEALTHY if case.name == "moving_mask")
    plain = run(case, tmp_path / "plain", log_every_n_steps=1)
    check_quiet(case, tmp_path, plain, on_nonfinite="skip")
