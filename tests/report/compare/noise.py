"""Curves with a known truth: groups of runs whose noise remembers itself, as that of trainings does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradwatch.report.compare.arrays import Floats


def autocorrelated(random: np.random.Generator, runs: int, records: int, memory: float) -> Floats:
    """AR(1) of variance 1, an array [runs, records]; with a memory of 1 every run keeps one value for ever."""
    steps = random.normal(size=(runs, records))
    noise = steps.copy()
    for record in range(1, records):
        noise[:, record] = memory * noise[:, record - 1] + math.sqrt(1.0 - memory**2) * steps[:, record]
    return noise


def pairs(
    sizes: tuple[int, int], records: int, memory: float, *, count: int, seed: int
) -> Iterator[tuple[Floats, Floats]]:
    """Pairs of groups of one setting, made a hundred at a time: the loop over the records is what takes time."""
    random = np.random.default_rng(seed)
    for made in range(0, count, 100):
        number = min(100, count - made)
        noise = autocorrelated(random, number * sum(sizes), records, memory)
        for both in noise.reshape(number, sum(sizes), records):
            yield both[: sizes[0]], both[sizes[0] :]
