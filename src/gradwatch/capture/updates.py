"""Weight norms, and how far one optimizer step moved the weights; measured on log steps only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from gradwatch.capture.gradients import host_norms

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
    return WeightsBefore(copies, host_norms(copies))


def layer_update_ratios(group: ParameterGroup, before: WeightsBefore) -> list[float | None]:
    """Return ‖w_after - w_before‖ / ‖w_before‖ of each layer; None where the weights were all zero.

    Uses up the copies: they become the differences, which needs no further memory. Neighbours in any floating-point
    format differ by a number of that format (Sterbenz 1974), so half precision loses nothing that matters here.
    """
    if before.copies:
        with torch.no_grad():
            torch._foreach_sub_(before.copies, [parameter.detach() for parameter in group.parameters])
    changes = group.layer_norms(host_norms(before.copies))
    weights = group.layer_norms(before.norms)
    return [float(change / weight) if weight > 0 else None for change, weight in zip(changes, weights, strict=True)]
