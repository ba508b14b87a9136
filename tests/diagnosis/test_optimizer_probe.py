from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradwatch.diagnosis.optimizer_probe import spoiling_update


def parameter(dtype: torch.dtype = torch.float32, size: int = 5) -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1, 1, size).to(dtype))


def run(optimizer: torch.optim.Optimizer, weight: nn.Parameter, *, steps: int = 3, scale: float = 0.1) -> float:
    """Take healthy steps; return the norm of the last gradient."""
    for step in range(steps):
        weight.grad = torch.linspace(-1, 1.5 + step, weight.numel()).to(weight.dtype) * scale
        optimizer.step()
    assert weight.grad is not None
    return float(weight.grad.double().norm())


def spoil(weight: Tensor, value: float = math.nan) -> None:
    with torch.no_grad():
        weight.view(-1)[0] = value


HEALTHY: dict[str, Any] = {
    "SGD": partial(torch.optim.SGD, lr=0.1),
    "SGD-momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "SGD-fused": partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
    "Adam": partial(torch.optim.Adam, lr=1e-2),
    "Adam-amsgrad": partial(torch.optim.Adam, lr=1e-2, amsgrad=True, weight_decay=0.1),
    "Adam-fused": partial(torch.optim.Adam, lr=1e-2, fused=True),
    "Adam-foreach": partial(torch.optim.Adam, lr=1e-2, foreach=True),
    "Adam-differentiable": partial(torch.optim.Adam, lr=1e-2, differentiable=False, maximize=True),
    "AdamW": partial(torch.optim.AdamW, lr=torch.tensor(1e-2)),
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "Adamax": torch.optim.Adamax,
    "Adadelta": torch.optim.Adadelta,
    "Adagrad": torch.optim.Adagrad,
    "ASGD": torch.optim.ASGD,
    "RMSprop": partial(torch.optim.RMSprop, centered=True, momentum=0.9),
    "Rprop": torch.optim.Rprop,
    "Adafactor": torch.optim.Adafactor,
    "LBFGS": torch.optim.LBFGS,
    "SparseAdam": torch.optim.SparseAdam,
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("norm", ["own", 0.0, math.nan, 1e-20])
def test_a_healthy_optimizer_is_never_blamed(name: str, value: float, steps: int, norm: str | float) -> None:
    """Something else has written to the weight: user code, a cast, a broken average."""
    weight = parameter()
    optimizer = HEALTHY[name]([weight])
    taken = 0.5
    if name not in ("LBFGS", "SparseAdam"):
        taken = run(optimizer, weight, steps=steps) if steps else 0.5
    spoil(weight, value)
    assert not spoiling_update(optimizer, weight, taken if norm == "own" else float(norm))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["SGD-momentum", "Adam", "AdamW", "RMSprop"])
def test_a_healthy_optimizer_is_not_blamed_in_other_dtypes(name: str, dtype: torch.dtype) -> None:
    weight = parameter(dtype)
    optimizer = HEALTHY[name]([weight])
    norm = run(optimizer, weight)
    spoil(weight)
    assert not spoiling_update(optimizer, weight, norm)


def test_adam_in_float16_loses_its_eps() -> None:
    """The square of a gradient of 1e-4, and eps 1e-8 beside its root, are zero in float16 (PyTorch issue 8860)."""
    weight = parameter(torch.float16)
    optimizer = torch.optim.Adam([weight], lr=1e-3)
    norm = run(optimizer, weight, steps=1, scale=1e-4)
    assert not bool(weight.isfinite().all())
    assert spoiling_update(optimizer, weight, norm)


def test_adam_with_eps_of_zero_divides_by_zero() -> None:
    weight = parameter()
    optimizer = torch.optim.Adam([weight], eps=0.0)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert bool(weight.isnan().all())
    assert spoiling_update(optimizer, weight, 0.0)


@pytest.mark.parametrize(
    ("kind", "lr"),
    [
        (torch.optim.SGD, math.inf),
        (torch.optim.SGD, math.nan),
        (torch.optim.SGD, 1e38),
        (torch.optim.Adam, math.inf),
        (torch.optim.Adam, math.nan),
    ],
)
def test_a_rate_that_overflows(kind: Any, lr: float) -> None:
    weight = parameter()
    optimizer = kind([weight], lr=0.1)
    optimizer.param_groups[0]["lr"] = lr  # as a schedule sets it: the constructor would refuse
    assert spoiling_update(optimizer, weight, 1e3)


def test_a_moment_that_is_infinite() -> None:
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    norm = run(optimizer, weight)
    spoil(optimizer.state[weight]["momentum_buffer"], math.inf)
    assert spoiling_update(optimizer, weight, norm)


def test_only_the_group_of_the_weight_counts() -> None:
    weight, other = parameter(), parameter()
    groups: list[dict[str, Any]] = [{"params": [weight]}, {"params": [other], "lr": math.inf}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    assert not spoiling_update(optimizer, weight, 1.0)
    assert spoiling_update(optimizer, other, 1.0)


# -- what it must leave alone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD-momentum", "Adam", "Adam-fused", "AdamW", "Rprop", "Adafactor"])
def test_the_users_optimizer_is_untouched(name: str) -> None:
    weight, other = parameter(), parameter()
    optimizer = HEALTHY[name]([{"params": [weight]}, {"params": [other]}])
    other.grad = torch.ones(5)
    norm = run(optimizer, weight)
    spoil(weight)
    before = copy.deepcopy((optimizer.state_dict(), weight, other, weight.grad, other.grad))
    generator = torch.get_rng_state()
    spoiling_update(optimizer, weight, norm)
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == [[id(weight)], [id(other)]]
    after = copy.deepcopy((optimizer.state_dict(), weight, other, weight.grad, other.grad))
    assert torch.equal(generator, torch.get_rng_state())
    assert str(before) == str(after)
    assert list(optimizer.state) == [weight, other]


def test_no_hook_runs_neither_the_optimizers_nor_the_global_ones() -> None:
    weight = parameter()
    optimizer = torch.optim.Adam([weight])
    norm = run(optimizer, weight)
    calls: list[str] = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre")),
        optimizer.register_step_post_hook(lambda *_: calls.append("post")),
        register_optimizer_step_pre_hook(lambda *_: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global post")),
    ]
    try:
        spoil(weight)
        spoiling_update(optimizer, weight, norm)
        assert calls == []
        weight.grad = torch.ones(5)
        optimizer.step()
        assert sorted(calls) == ["global post", "global pre", "post", "pre"]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.filterwarnings("error")
def test_a_scheduler_does_not_take_it_for_a_step() -> None:
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=5)
    step = optimizer.step
    spoil(weight)
    before = (scheduler.last_epoch, scheduler.get_last_lr())
    spoiling_update(optimizer, weight, 1.0)
    assert (scheduler.last_epoch, scheduler.get_last_lr()) == before
    assert not hasattr(optimizer, "_opt_called") or not optimizer._opt_called
    assert optimizer.step == step
    with pytest.warns(UserWarning, match="lr_scheduler.step"):  # the scheduler still knows that nobody has stepped
        scheduler.step()


class Strange(torch.optim.Optimizer):
    """Needs an attribute that a copy of it does not have, as wrappers of other optimizers do."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})
        self.inner = torch.optim.SGD(self.param_groups, lr=0.1)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step(closure)


class Failing(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        raise NotImplementedError


@pytest.mark.parametrize("kind", [Strange, partial(Failing, lr=0.1)])
def test_an_optimizer_that_cannot_be_copied_is_no_evidence(kind: Any) -> None:
    weight = parameter()
    optimizer = kind([weight])
    before = weight.detach().clone()
    assert not spoiling_update(optimizer, weight, 1.0)
    assert torch.equal(before, weight)


def test_a_dtype_that_cannot_be_repaired_is_no_evidence() -> None:
    weight = nn.Parameter(torch.ones(3).to(torch.float8_e4m3fn), requires_grad=False)
    assert not spoiling_update(torch.optim.SGD([weight], lr=math.inf), weight, 1.0)


def test_a_weight_that_the_optimizer_does_not_step_is_no_evidence() -> None:
    assert not spoiling_update(torch.optim.SGD([parameter()], lr=math.inf), parameter(), 1.0)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_switched_off(off: Any) -> None:
    """Around validation the scan runs in inference mode."""
    weight = parameter()
    optimizer = torch.optim.Adam([weight])
    norm = run(optimizer, weight)
    with off():
        assert not spoiling_update(optimizer, weight, norm)
        optimizer.param_groups[0]["lr"] = math.inf
        assert spoiling_update(optimizer, weight, norm)
