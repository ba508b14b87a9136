"""Curves with a known truth: groups of runs whose noise remembers itself, as that of trainings does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from gradwatch.report.compare.arrays import Floats


def autocorrelated(random: np.random.Generator, runs: int, records: int, memory: float) -> Floats:
    """AR(1) of variance 1, an array [runs, records]; with a memory of 1 every run keeps one value for ever."""
    steps = random.normal(size=(runs, records))
    noise = steps.copy()
    for record in range(1, records):
        noise[:, record] = memory * noise[:, record - 1] + math.sqrt(1.0 - memory**2) * steps[:, record]
    return noise
