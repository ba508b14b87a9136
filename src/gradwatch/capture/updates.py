"""Weight norms, and how far one optimizer step moved the weights; measured on log steps only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from gradwatch.capture.host_norms import host_norms
from gradwatch.capture.sampling import joined, layer_shares, sampled

if TYPE_CHECKING:
    from torch import Tensor

    from gradwatch.capture.parameters import ParameterGroup


# Formats in which a small update rounds to nothing: 8 and 11 bits of precision.
NARROW = (torch.bfloat16, torch.float16)


class Updates(NamedTuple):
    """What a step did to the weights of each layer.

    All have shape [layers]. ``norms`` are those of the weights before the step, ``ratios``
    ‖w_after - w_before‖ / ‖w_before‖, NaN where the weights were all zero. ``unchanged`` is the share of elements with
    a nonzero gradient that came out as they were: of weights in bfloat16 and float16 only, NaN elsewhere and where the
    gradients are gone.
    """

    norms: np.ndarray
    ratios: np.ndarray
    unchanged: np.ndarray


def weights_before(group: ParameterGroup) -> list[Tensor]:
    """Copy the weights of one optimizer: this costs the size of the weights until the step is over."""
    with torch.no_grad():
        return [parameter.detach().clone() for parameter in group.parameters]


def layer_updates(group: ParameterGroup, before: list[Tensor]) -> Updates:
    """Return the weight norms, ‖w_after - w_before‖ / ‖w_before‖, and what of narrow weights the step left unchanged.

    Uses up the copies: they become the differences, which needs no further memory. Neighbours in any floating-point
    format differ by a number of that format (Sterbenz 1974), so half precision loses nothing that matters here.
    """
    weights = host_norms(before)
    if before:
        with torch.no_grad():
            torch._foreach_sub_(before, [parameter.detach() for parameter in group.parameters])
    changes = host_norms(before)
    norms, moved = group.layer_norms(np.stack((weights, changes)))
    ratios = np.divide(moved, norms, out=np.full(len(norms), np.nan), where=norms > 0)
    return Updates(norms, ratios, _unchanged(group, before))


@torch.no_grad()
def _unchanged(group: ParameterGroup, differences: list[Tensor]) -> np.ndarray:
    """Return the share of elements with a nonzero gradient whose difference is exactly 0, shape [layers].

    In fp32 an update is lost to rounding so rarely that looking is not worth it.
    """
    narrow = [
        (position, difference, parameter.grad)
        for position, (difference, parameter) in enumerate(zip(differences, group.parameters, strict=True))
        if difference.dtype in NARROW and parameter.grad is not None and parameter.grad.layout is torch.strided
    ]
    if not narrow:
        return np.full(len(group.layers), np.nan)
    positions, moved, gradients = zip(*narrow, strict=True)
    taken = sampled(positions, moved)
    return layer_shares(group, joined(sampled(positions, gradients).pieces) != 0, joined(taken.pieces) == 0, taken)
