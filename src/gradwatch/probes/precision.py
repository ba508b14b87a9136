"""The gradient as it is trained with against the one in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from gradwatch.numerics import agreement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradwatch.probes.objectives import Objective

# Healthy networks reach 2e-6 in float32, 14 % in bfloat16 and 6 % in float16 (docs/gradient_checks.md). The noise
# between batches is as large as the gradient itself, so a few percent harm nobody.
LARGEST_ERROR = {"float32": 1e-3, "float64": 1e-9}
# A single tensor's gradient may nearly cancel, to 1.3 % in float32 where a differential equation is nearly solved: so
# little by itself counts only where the gradient as a whole is off.
ALONE = 30.0
LARGEST_ERROR_HALF = 0.3
SMALLEST_COSINE_HALF = 0.95
# Of the norm of the whole gradient: a tensor below it has nothing to compare.
NEGLIGIBLE = 1e-9


class Precision(NamedTuple):
    """Of one tensor: ‖g - r‖ / ‖r‖ and the cosine between the two, the worst over the objectives.

    ``share`` is ‖r‖ by the norm of the whole gradient.
    """

    error: float
    cosine: float
    share: float = 1.0

    def is_poor(self, precision: str | None) -> bool:
        """Whether this is more than the format of the training accounts for."""
        limit = LARGEST_ERROR.get(precision or "")
        if limit is not None:
            return not self.error <= limit
        return not (self.error <= LARGEST_ERROR_HALF and self.cosine >= SMALLEST_COSINE_HALF)


def compare(trained: Sequence[Objective], wide: Sequence[Objective]) -> dict[str, Precision]:
    """Compare the gradients of each tensor; those too small to matter are left out."""
    found: dict[str, Precision] = {}
    for own, reference in zip(trained, wide, strict=False):
        norms = {name: float(torch.linalg.vector_norm(g.to_dense())) for name, g in reference.gradients.items()}
        total = math.hypot(*norms.values()) if norms else 0.0
        for name in own.gradients.keys() & reference.gradients.keys():
            if norms[name] > NEGLIGIBLE * total:
                error, cosine = map(float, agreement(own.gradients[name], reference.gradients[name]))
                now = Precision(error, cosine, norms[name] / total)
                if name not in found or now.error > found[name].error:
                    found[name] = now
    return found


def poor(found: Mapping[str, Precision], precision: str | None) -> list[str]:
    """Return the names of the tensors that are less precise than they should be, the worst first."""
    names = [name for name, one in found.items() if one.is_poor(precision)]
    limit = LARGEST_ERROR.get(precision or "")
    if limit is not None and math.hypot(*(one.error * one.share for one in found.values())) <= limit:
        names = [name for name in names if not found[name].error <= ALONE * limit]
    return sorted(names, key=lambda name: -found[name].error)
