"""A gradient that is finite but whose square is not."""

from __future__ import annotations

import numpy as np

from gradwatch.detectors.catalogue.gradients import HUGE
from gradwatch.detectors.detector import Limits, Reading, Sign, detector
from gradwatch.observations import HugeGradient

# The largest float32 is 3.4e38: squares of anything above its root are inf (IEEE 754 binary32).
SQUARE_OVERFLOWS = 1.8e19

FATES = {
    "clipped": "It was clipped.",
    "kept": "It was not clipped: where an element is above 1.8e19, Adam's second moment of it is infinite.",
    "zeroed": "The training loop clips by norm itself: clip_grad_norm_ makes every gradient zero of it.",
    "left alone": "What becomes of it is up to the training loop's own clipping.",
}


def _huge(seen: HugeGradient, _limits: Limits) -> Reading:
    evidence = {"grad_norm": seen.norm, "square_overflows_above": SQUARE_OVERFLOWS, "fate": FATES[seen.fate]}
    return Reading(np.array([seen.norm / SQUARE_OVERFLOWS]), (seen.layer,), lambda _: Sign(evidence))


DETECTORS = (detector(HUGE, _huge, reads=HugeGradient),)
