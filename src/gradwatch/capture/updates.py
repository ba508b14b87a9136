"""Weight norms, and how far one optimizer step moved the weights; measured on log steps only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from gradwatch.numerics import difference_norms, exact_l2_norms

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gradwatch.capture.parameters import ParameterGroup


class WeightsBefore(NamedTuple):
    """The weights before a step: a copy of each parameter, and their L2 norms (shape [n], float64)."""

    copies: list[Tensor]
    norms: np.ndarray


def weights_before(group: ParameterGroup) -> WeightsBefore:
    """Copy the weights of one optimizer: this costs the size of the weights until the step is over."""
    with torch.no_grad():
        copies = [parameter.detach().clone() for parameter in group.parameters]
    return WeightsBefore(copies, exact_l2_norms(copies).cpu().numpy())


def layer_update_ratios(group: ParameterGroup, before: WeightsBefore) -> list[float | None]:
    """Return ‖w_after - w_before‖ / ‖w_before‖ of each layer; None where the weights were all zero."""
    moved = difference_norms([parameter.detach() for parameter in group.parameters], before.copies)
    changes = group.layer_norms(moved.double().cpu().numpy())
    weights = group.layer_norms(before.norms)
    return [float(change / weight) if weight > 0 else None for change, weight in zip(changes, weights, strict=True)]
