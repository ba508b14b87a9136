"""Schedules of the learning rate that people use, by the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

if TYPE_CHECKING:
    from collections.abc import Callable


def warmup_cosine(steps: int, warmup: int = 100) -> Callable[[Any], LambdaLR]:
    """Rise linearly over ``warmup`` steps, and fall to 0 along half a cosine."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (steps - warmup))))

    return lambda optimizer: LambdaLR(optimizer, factor)


def one_cycle(steps: int, largest: float | list[float]) -> Callable[[Any], OneCycleLR]:
    """Rise to the largest rate over the first 30 %, and fall to a small fraction of where it began."""
    return lambda optimizer: OneCycleLR(optimizer, max_lr=largest, total_steps=steps)
