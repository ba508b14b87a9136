"""Autograd in float64 against centred differences in float64, along seeded random directions."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, NamedTuple

import torch

from gradwatch.numerics import inner_product, random_direction, root_mean_square
from gradwatch.probes.slopes import Rung, Slope

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from torch import Tensor

    from gradwatch.probes.objectives import Objective

# Relative error that a correct gradient stays below. Measured over 44 modules: 1e-7 for all weights together, at most
# 6e-6 for one tensor, at steps of 1e-6 to 1e-8.
WHOLE_TOLERANCE = 1e-5
TENSOR_TOLERANCE = 1e-4


class Direction(NamedTuple):
    """A change of some weights, by name."""

    changes: Mapping[str, Tensor]

    def moved(self, weights: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
        """Return the weights a step along the direction."""
        return {name: torch.add(weights[name], change, alpha=step) for name, change in self.changes.items()}


def make_direction(
    weights: Mapping[str, Tensor], names: Collection[str], seed: int, masks: Mapping[str, Tensor]
) -> Direction:
    """Return a random direction over the named weights; the same seed and name give the same change.

    Args:
        weights: float64, by name.
        names: those to change.
        seed: of the direction.
        masks: 0 where a weight is constant by design, as the row of a padding index, by name.
    """
    changes = {}
    for name in names:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
        change = random_direction(weights[name], generator)
        changes[name] = change * masks[name] if name in masks else change
    return Direction(changes)


def slopes_along(
    direction: Direction,
    objectives: Sequence[Objective],
    weights: Mapping[str, Tensor],
    values: Callable[[Mapping[str, Tensor]], list[float]],
    tolerance: float,
) -> list[Slope]:
    """Measure the derivative of every objective along one direction, down the ladder until each has an answer.

    Args:
        direction: over weights that are active in all the objectives.
        objectives: with their gradients at ``weights``.
        weights: where the direction starts.
        values: returns the objectives' values, in order, for weights that replace the given ones.
        tolerance: relative error up to which a slope passes.
    """
    slopes = [_start(direction, objective, tolerance) for objective in objectives]
    while (steps := [step for slope in slopes if (step := slope.next_step) is not None]) and any(steps):
        step = max(steps)
        plus, minus = values(direction.moved(weights, step)), values(direction.moved(weights, -step))
        slopes = [
            slope.with_rung(Rung(step, up, down)) if slope.next_step is not None else slope
            for slope, up, down in zip(slopes, plus, minus, strict=True)
        ]
    return slopes


def _start(direction: Direction, objective: Objective, tolerance: float) -> Slope:
    along, squares = 0.0, 0.0
    for name, change in direction.changes.items():
        gradient = objective.gradients.get(name)
        if gradient is not None:
            along += float(inner_product(gradient, change))
            squares += float((torch.linalg.vector_norm(gradient.to_dense()) * root_mean_square(change)) ** 2)
    return Slope(along, math.sqrt(squares), objective.value, tolerance)
