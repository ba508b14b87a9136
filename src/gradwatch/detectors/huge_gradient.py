"""A gradient that is finite but whose square is not."""

from __future__ import annotations

from typing import Any

from gradwatch.detectors.catalogue.gradients import HUGE
from gradwatch.records import Finding

# The largest float32 is 3.4e38: squares of anything above its root are inf (IEEE 754 binary32).
SQUARE_OVERFLOWS = 1.8e19


FATES = {
    "clipped": "It was clipped.",
    "kept": "It was not clipped, and Adam's second moment of it is infinite.",
    "zeroed": "The training loop clips by norm itself: clip_grad_norm_ makes every gradient zero of it.",
    "left alone": "What becomes of it is up to the training loop's own clipping.",
}


def huge_gradient(header: dict[str, Any], layer: str, norm: float, *, fate: str) -> Finding:
    """Return the finding for a finite gradient norm whose square overflows float32; ``fate`` is a key of ``FATES``."""
    return Finding(
        **header,
        code=HUGE.code,
        status="opened",
        since_step=header["step"],
        severity=HUGE.severity,
        layer=layer,
        message=HUGE.message.format(layer=layer, grad_norm=norm, fate=FATES[fate]),
        evidence={"grad_norm": norm, "square_overflows_above": SQUARE_OVERFLOWS},
        advice=HUGE.advice,
    )
