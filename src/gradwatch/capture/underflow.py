"""How much of a gradient is lost in fp16's subnormal numbers; for steps that compute in fp16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from gradwatch.capture.sampling import joined, layer_shares, sampled

if TYPE_CHECKING:
    from gradwatch.capture.gradients import Gradients
    from gradwatch.capture.parameters import ParameterGroup

# The smallest normal number of fp16; below it digits are lost, below 6e-8 everything is (IEEE 754 binary16).
SMALLEST_NORMAL = 2.0**-14


@torch.no_grad()
def subnormal(group: ParameterGroup, gradients: Gradients, loss_scale: float | None) -> np.ndarray:
    """Return the share of nonzero gradient elements that fp16 held as subnormal numbers, shape [layers].

    Args:
        group: whose layers.
        gradients: unscaled ones; NaN where a layer has none, or zeros only.
        loss_scale: what the loss was multiplied by; None for 1, and for gradients that are still multiplied by it.
    """
    if not gradients.tensors:
        return np.full(len(group.layers), np.nan)
    taken = sampled(gradients.positions, gradients.tensors)
    magnitudes = joined(taken.pieces).abs()
    return layer_shares(group, magnitudes > 0, magnitudes < SMALLEST_NORMAL / (loss_scale or 1.0), taken)
