"""Made-up histories of healthy runs: noise, spikes, falls, warm-ups, and norms that wander."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    History = tuple[list[int], list[float | None], list[float]]

SHAPES: dict[str, Callable[[int, random.Random], float]] = {
    "noise": lambda _, __: 1.0,
    "spike": lambda _, __: 1.0,
    "fall": lambda i, _: math.exp(-i / 20),
    "warm-up": lambda i, _: 1e-6 * 1.2 ** min(i, 10),
    "start at zero": lambda i, _: min(1.0, 1e-6 * 4.0**i),
    "slow rise": lambda i, _: 1e-4 * 1.5 ** min(i, 20),
    "waves": lambda i, _: 2.0 + math.sin(i / 3),
    "GAN": lambda _, r: 10 ** r.uniform(-1, 1),
}
HEALTHY_KINDS = list(SHAPES)


def healthy_history(kind: str, r: random.Random) -> History:
    """Return 2 to 64 steps with losses, one in fifty of them unknown, and gradient norms."""
    rows, noise = r.randint(2, 64), r.uniform(0.05, 0.8)
    scale, level = 10 ** r.uniform(-3, 2), 10 ** r.uniform(-1, 1.5)
    norms = [scale * SHAPES[kind](i, r) * math.exp(r.gauss(0, noise)) for i in range(rows)]
    losses: list[float | None] = [level * _loss(kind, i, r) * math.exp(r.gauss(0, noise / 2)) for i in range(rows)]
    if kind == "spike":
        place = r.choice([rows - 1, r.randrange(rows)])
        norms[place] *= 10 ** r.uniform(1, 8)
        losses[place] = level * 10 ** r.uniform(0, 8)
    return list(range(rows)), [loss if r.random() > 0.02 else None for loss in losses], norms


def _loss(kind: str, i: int, r: random.Random) -> float:
    return math.exp(r.gauss(0, 0.5)) * r.choice([1, 1, 1, -1]) if kind == "GAN" else math.exp(-i / 30)
