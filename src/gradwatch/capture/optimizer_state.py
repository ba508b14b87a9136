"""What Adam's second moments say: where its eps, and not the gradient, sets the size of the step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradwatch.capture.sampling import joined, layer_shares, sampled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from gradwatch.capture.parameters import ParameterGroup

# The names that torch's optimizers give the running mean of the squared gradient, the one that divides first.
SECOND_MOMENTS = ("max_exp_avg_sq", "exp_avg_sq", "square_avg")


@torch.no_grad()
def below_epsilon(group: ParameterGroup) -> np.ndarray:
    """Return the share of nonzero second moments v with sqrt(v / (1 - β₂ᵗ)) < eps, shape [layers].

    NaN for layers without a matrix or kernel, for optimizers without second moment or ``eps``, and before their first
    step. What is zero never had a gradient, and eps does not touch it. RMSprop and RAdam compare v as it is.
    """
    settings = {id(p): settings for settings in group.optimizer.param_groups for p in settings["params"]}
    positions, moments, limits = [], [], []
    weights = group.is_weight[group.layer_index].tolist()
    for position, parameter in enumerate(group.parameters):
        state = group.optimizer.state.get(parameter) if weights[position] else None
        if not state:
            continue
        moment = next((state[name] for name in SECOND_MOMENTS if name in state), None)
        limit = _limit(settings[id(parameter)], state, type(group.optimizer))
        if isinstance(moment, torch.Tensor) and limit is not None:
            positions.append(position)
            moments.append(moment)
            limits.append(limit)
    if not moments:
        return np.full(len(group.layers), np.nan)
    taken = sampled(positions, moments)
    values, limit = _comparable(taken.pieces, limits)
    return layer_shares(group, values > 0, values < limit, taken)


def _limit(settings: Mapping[str, Any], state: Mapping[str, Any], kind: type) -> float | Tensor | None:
    """Return the v whose corrected root is eps; a tensor where the optimizer counts its steps on the device."""
    eps, step = settings.get("eps"), state.get("step")
    # Adadelta's eps stands under the root, and is part of what it does.
    if not isinstance(eps, (int, float)) or step is None or issubclass(kind, torch.optim.Adadelta):
        return None
    if "betas" not in settings or issubclass(kind, torch.optim.RAdam):
        return float(eps) ** 2
    if isinstance(step, torch.Tensor):
        if not step.is_cpu:
            on_device: Tensor = float(eps) ** 2 * (1.0 - settings["betas"][1] ** step)
            return on_device
        step = step.item()
    return float(eps * eps * (1.0 - settings["betas"][1] ** step))


def _comparable(pieces: list[Tensor], limits: list[float | Tensor]) -> tuple[Tensor, float]:
    """Return the pieces joined and their common limit; where they have none, in units of their limits."""
    first = limits[0]
    if isinstance(first, float) and all(isinstance(limit, float) and limit == first for limit in limits):
        return joined(pieces).float(), first
    return joined([piece.float() / limit for piece, limit in zip(pieces, limits, strict=True)]), 1.0
