"""Scalars on their way from a device to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def host_values(scalars: Sequence[Tensor]) -> list[float]:
    """Return tensors of one element as floats, with one transfer a device."""
    values = [0.0] * len(scalars)
    for device in dict.fromkeys(scalar.device for scalar in scalars):
        places = [i for i, scalar in enumerate(scalars) if scalar.device == device]
        if device.type == "cpu":
            told = [float(scalars[i]) for i in places]
        else:
            # A concatenation promotes to the widest format; counts among the scalars stay exact up to 2^24.
            told = torch.cat([scalars[i].reshape(1) for i in places]).tolist()
        for i, value in zip(places, told, strict=True):
            values[i] = value
    return values
