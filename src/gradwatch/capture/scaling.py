"""What a GradScaler knows; the private members of it that are needed are read here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.amp import GradScaler
    from torch.optim import Optimizer


# A scale that has held for so many steps has found its level; a growth of 2x in 2,000 steps costs one halving.
SETTLED_STEPS = 20
# Six halvings from there are no correction any more.
FALLEN = 64.0


class ScaleTrend:
    """Tells a loss scale that looks for its level, from however far above, from one that falls after it had one."""

    def __init__(self) -> None:
        self._settled: float | None = None
        self._held = 0

    def good_step(self, scale: float | None) -> None:
        """Count a step without overflow."""
        self._held += 1
        if scale is not None and self._held >= SETTLED_STEPS:
            self._settled = scale

    def overflow(self, scale: float) -> bool:
        """Return whether an overflow at this scale shows that it keeps falling; once, until it has held again."""
        self._held = 0
        if self._settled is None or scale > self._settled / FALLEN:
            return False
        self._settled = None
        return True


def unscales_itself(optimizer: Optimizer) -> bool:
    """Whether the optimizer divides by the loss scale inside its step (fused ones): its gradients are still scaled."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def scale_of(scaler: GradScaler, device: torch.device) -> Tensor:
    """Return the loss scale as a 0-dim float32 tensor on ``device``, without waiting for the device."""
    return scaler.scale(torch.ones((), device=device))


def will_skip(scaler: GradScaler, optimizer: Optimizer) -> bool:
    """Whether ``unscale_`` has found a non-finite gradient, so that ``scaler.step`` will skip the update."""
    states = getattr(scaler, "_per_optimizer_states", {})
    found = states.get(id(optimizer), {}).get("found_inf_per_device", {})
    return any(bool(flag.item()) for flag in found.values())


def leave_to_scaler(scaler: GradScaler, optimizer: Optimizer, gradients: Sequence[Tensor], *, finite: bool) -> bool:
    """Make sure that the scaler skips this update by itself; False if the gradients must be dropped instead.

    A fused optimizer asserts when it finds no gradient at all, so under it a finite gradient (of a non-finite loss)
    is made infinite: the scaler then sees an overflow.
    """
    if not unscales_itself(optimizer):
        return will_skip(scaler, optimizer)
    if finite and gradients:
        gradients[0].fill_(torch.inf)
    return bool(gradients)
