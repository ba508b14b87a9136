"""Would this optimizer make a finite weight non-finite? Asked of a copy, once a weight has turned bad."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from gradwatch.diagnosis.memory import Memory
from gradwatch.diagnosis.slicing import first_birth
from gradwatch.diagnosis.trace import Record, Tracer
from gradwatch.replica.guard import StepGuard
from gradwatch.tracing.module_stack import ModuleStack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer


class Update(NamedTuple):
    """An update that made a finite weight non-finite: the optimizer, its settings, and the operation if it was seen."""

    optimizer: str
    settings: dict[str, Any]
    birth: Record | None


def spoiling_update(
    optimizer: Optimizer, parameter: nn.Parameter, gradient_norm: float, lr: Sequence[Any] = ()
) -> Update | None:
    """Return how one more step of a copy of ``optimizer`` takes finite weights to NaN or inf, None if it does not.

    The gradient of the step in question is gone by the time its weights are seen; a constant one of the same norm
    stands in for it, then one of zero, as rows have that the batch did not use. So this is evidence, not proof: a
    division by a vanished second moment (eps lost in fp16, or 0), an infinite moment or an infinite rate shows; an
    overflow that needs the very gradient may not.

    Args:
        optimizer: the user's optimizer; it is not changed.
        parameter: the weight that became non-finite.
        gradient_norm: L2 norm of its gradient at that step.
        lr: the learning rates of that step, by parameter group, where the optimizer may have others by now.
    """
    spread = gradient_norm / math.sqrt(max(1, parameter.numel())) if math.isfinite(gradient_norm) else 0.0
    try:
        for gradient in (spread, 0.0):
            found = _spoiled(optimizer, parameter, gradient, lr)
            if found is not None:
                return found
    except Exception:  # noqa: BLE001 - any optimizer and dtype may be there; without a copy there is no evidence
        return None
    return None


def _spoiled(optimizer: Optimizer, parameter: nn.Parameter, gradient: float, lr: Sequence[Any]) -> Update | None:
    weight = nn.Parameter(torch.nan_to_num(parameter.detach(), nan=0.0, posinf=0.0, neginf=0.0))
    weight.grad = torch.full_like(weight, gradient)
    twin = _twin(optimizer, parameter, weight, lr)
    tracer = Tracer(ModuleStack(nn.Module()), Memory({("parameter", "weight"): weight}), StepGuard())
    with torch.enable_grad(), tracer:
        _bare_step(optimizer)(twin)
    if bool(torch.isfinite(weight.detach()).all()):
        return None
    birth = first_birth(tracer.record_of(weight))
    return Update(type(optimizer).__name__, _settings(twin), birth if isinstance(birth, Record) else None)


def _settings(optimizer: Optimizer) -> dict[str, Any]:
    """Return the learning rate and what keeps a denominator from zero."""
    group = optimizer.param_groups[0]
    return {name: float(group[name]) for name in ("lr", "eps") if isinstance(group.get(name), (int, float, Tensor))}


def _bare_step(optimizer: Optimizer) -> Any:
    """Return the class's ``step`` from below torch's wrapper, which would call step hooks, the global ones too."""
    step: Any = type(optimizer).step
    return step.__wrapped__ if getattr(step, "hooked", False) else step


def _twin(optimizer: Optimizer, parameter: nn.Parameter, weight: nn.Parameter, lr: Sequence[Any]) -> Optimizer:
    twin = copy.copy(optimizer)
    groups = optimizer.param_groups
    index = next(i for i, group in enumerate(groups) if any(p is parameter for p in group["params"]))
    rate = {"lr": lr[index]} if index < len(lr) and "lr" in groups[index] else {}
    twin.param_groups = [{**groups[index], **rate, "params": [weight]}]
    twin.state = defaultdict(dict, {weight: _clone(optimizer.state.get(parameter, {}))})
    return twin


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _clone(item) for key, item in value.items()}
    return copy.copy(value)
