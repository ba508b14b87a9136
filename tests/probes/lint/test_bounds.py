"""Bounds hold for whatever goes in, and what is said to be reached can be reached."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradwatch.probes.lint.bounds import (
    UNKNOWN,
    Bounds,
    elu_saturation,
    exp_limit,
    exp_vanishes,
    rounded,
    saturation,
    tanh_saturation,
)
from gradwatch.probes.lint.recorder import Recorder
from gradwatch.tracing.module_stack import ModuleStack

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = Callable[[Tensor], Tensor]

FUNCTIONS: dict[str, Function] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "elu": functional.elu,
    "elu + 1": lambda x: functional.elu(x) + 1,
    "softplus": functional.softplus,
    "sigmoid": torch.sigmoid,
    "1 - sigmoid": lambda x: 1 - x.sigmoid(),
    "1 - sigmoid + eps": lambda x: 1 - x.sigmoid() + 1e-3,
    "tanh": torch.tanh,
    "1 - tanh^2": lambda x: 1 - x.tanh() ** 2,
    "0.5 * tanh - 1": lambda x: 0.5 * x.tanh() - 1,
    "softmax": lambda x: x.softmax(-1),
    "1 - softmax": lambda x: 1 - x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "exp of log_softmax": lambda x: x.log_softmax(-1).exp(),
    "exp": torch.exp,
    "exp of -x^2": lambda x: (-(x**2) / 3).exp(),
    "expm1 of -relu": lambda x: torch.expm1(-functional.relu(x)),
    "log of 1 + x^2": lambda x: torch.log(1 + x**2),
    "log2": lambda x: torch.log2(x.sigmoid() * 0.9 + 0.01),
    "log10": lambda x: torch.log10(1 + x.sigmoid()),
    "log1p of relu": lambda x: torch.log1p(functional.relu(x)),
    "logsigmoid": functional.logsigmoid,
    "abs": torch.abs,
    "square": torch.square,
    "x * x": lambda x: x * x,
    "x^4": lambda x: x**4,
    "sqrt of relu": lambda x: functional.relu(x).sqrt(),
    "relu^1.5": lambda x: functional.relu(x) ** 1.5,
    "(1 + x^2)^-0.5": lambda x: (1 + x**2) ** -0.5,
    "reciprocal": lambda x: (2 + x.abs()).reciprocal(),
    "rsqrt": lambda x: (2 + x.abs()).rsqrt(),
    "1 / (1 + x^2)": lambda x: 1 / (1 + x**2),
    "cosine": torch.cos,
    "sine": lambda x: 2 - torch.sin(x),
    "erf": torch.erf,
    "hardtanh": functional.hardtanh,
    "hardsigmoid": functional.hardsigmoid,
    "softsign": functional.softsign,
    "clamp": lambda x: x.clamp(-0.3, 2.0),
    "clamp from below": lambda x: x.clamp(min=0.1) + x.clamp_min(0.2),
    "clamp from above": lambda x: -x.clamp(max=0.1) - x.clamp_max(0.2),
    "clamp that rounds": lambda x: x.sigmoid().clamp(1e-10, 1 - 1e-10),
    "maximum": lambda x: torch.maximum(x, torch.tensor(0.5, dtype=x.dtype)),
    "minimum": lambda x: torch.minimum(x, torch.tensor(0.5, dtype=x.dtype)),
    "maximum of two": lambda x: torch.maximum(x, x.flip(0).abs()),
    "where 0": lambda x: torch.where(x > 0, x.abs() + 1, 0.0),
    "where 1": lambda x: torch.where(x > 0, functional.relu(x), 1.0),
    "where two": lambda x: torch.where(x > 0, x.sigmoid(), x.tanh()),
    "where of constants": lambda x: torch.where(x > 0, -1e4, 0.0),
    "masked_fill": lambda x: x.sigmoid().masked_fill(x > 0, -3.0),
    "a write": lambda x: _written(x.sigmoid()),
    "triangle": lambda x: (x.abs() + 1).triu(),
    "sum": lambda x: x.abs().sum(-1),
    "mean": lambda x: x.sigmoid().mean(0),
    "mean of a condition": lambda x: (x > 0).float().mean(),
    "product": lambda x: x.sigmoid().prod(-1),
    "cumulative product": lambda x: x.sigmoid().cumprod(-1),
    "largest": lambda x: x.softmax(-1).amax(-1),
    "smallest": lambda x: x.sigmoid().min(-1).values,
    "norm": lambda x: x.norm(dim=-1),
    "std": lambda x: x.std(0),
    "variance": lambda x: x.var(1, unbiased=False),
    "range": lambda x: x.max() - x.min(),
    "below the maximum": lambda x: x - x.amax(-1, keepdim=True),
    "above the minimum": lambda x: x - x.amin(-1, keepdim=True),
    "unit": lambda x: functional.normalize(x, dim=-1) * 0.9,
    "chord": lambda x: (functional.normalize(x, dim=-1) - functional.normalize(x.flip(0), dim=-1)).norm(dim=-1) * 0.99,
    "share": lambda x: (x.abs() + 1) / (x.abs() + 1).sum(-1, keepdim=True),
    "product of two": lambda x: x.sigmoid() * x.abs(),
    "product of signs": lambda x: x.sigmoid() * -x.abs(),
    "scaled": lambda x: -3 * x.sigmoid() / 2 + 1,
    "one hot": lambda x: functional.one_hot((x[:, 0] > 0).long(), 2),
    "count": lambda x: torch.bincount((x[:, 0] > 0).long(), minlength=5),
    "degree": lambda x: torch.zeros(3).index_add_(0, (x[:, 0] > 0).long(), torch.ones(len(x))),
    "concatenated": lambda x: torch.cat([x.sigmoid(), x.tanh() * 2]),
    "stacked": lambda x: torch.stack([x.sigmoid(), x.abs()]),
    "pooled": lambda x: functional.max_pool1d(x.sigmoid()[None], 2) + functional.avg_pool1d(x.sigmoid()[None], 2),
    "losses": lambda x: functional.mse_loss(x, x.flip(0)) + functional.l1_loss(x, x.flip(0)),
    "cross entropy": lambda x: functional.cross_entropy(x.float(), x.argmin(-1)),
    "dropout": lambda x: functional.dropout(x.sigmoid(), 0.5),
    "cast": lambda x: (x.sigmoid() + 1e-3).half().double(),
}
# Inputs, and what they reach: rounding and all.
REACHED: dict[str, tuple[Function, float]] = {
    "relu": (functional.relu, -1.0),
    "softmax": (lambda x: torch.stack([x, x * 0], -1).softmax(-1), -104.5),
    "1 - sigmoid": (lambda x: 1 - x.sigmoid(), 17.4),
    "1 - tanh^2": (lambda x: 1 - x.tanh() ** 2, 10.0),
    "elu + 1": (lambda x: functional.elu(x) + 1, -17.4),
    "softplus": (functional.softplus, -104.5),
    "exp of -x^2": (lambda x: (-(x**2)).exp(), 11.0),
    "sum of squares": (lambda x: (x**2).sum(-1), 0.0),
    "norm": (lambda x: x.norm(), 0.0),
    "spread": (lambda x: x.std(), 3.0),
    "range": (lambda x: x.max() - x.min(), 3.0),
    "condition": (lambda x: (x > 0).sum(), -1.0),
    "product": (lambda x: x.sigmoid().prod(), -60.0),
    "cross entropy": (
        lambda x: functional.cross_entropy(torch.stack([x, x * 0], -1), torch.zeros(len(x)).long()),
        20.0,
    ),
    "clamped to 0": (lambda x: x.clamp(min=0), -1.0),
    "clamp without effect": (lambda x: 1 - x.sigmoid().clamp(1e-8, 1 - 1e-8), 30.0),
}


GUARDED: dict[str, Function] = {
    "relu + eps": lambda x: functional.relu(x) + 1e-6,
    "clamp": lambda x: x.clamp(min=1e-6),
    "maximum": lambda x: torch.maximum(x, torch.tensor(1e-6)),
    "where": lambda x: torch.where(x == 0, 1.0, x.abs()),
    "masked_fill": lambda x: x.abs().masked_fill(x == 0, 1.0),
    "softplus + eps": lambda x: functional.softplus(x) + 1e-6,
    "1 - sigmoid + eps": lambda x: 1 - x.sigmoid() + 1e-6,
    "sum + eps": lambda x: (x**2).sum() + 1e-12,
    "largest": lambda x: x.softmax(-1).amax(-1),
    "exp": lambda x: x.exp(),
}


def _written(x: Tensor) -> Tensor:
    x[x > 0.5] = 0.0
    return x


def bounds_and_value(function: Function, x: Tensor) -> tuple[Bounds, Tensor]:
    module = nn.Identity()
    recorder = Recorder(module, ModuleStack(module))
    with recorder:
        y = function(x)
    (node,) = recorder.nodes_of(y)
    return node.bounds, y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_value_lies_outside(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for scale in (0.0, 1e-3, 1.0, 10.0, 100.0):
        x = (torch.randn(8, 6, generator=generator) * scale).to(dtype)
        bounds, y = bounds_and_value(FUNCTIONS[name], x)
        assert bounds != UNKNOWN
        # F.normalize makes NaN of a zero vector in float16, where its eps is 0.
        assert all(bounds.low <= number <= bounds.high for number in y[~y.isnan()].tolist())


@pytest.mark.parametrize("name", REACHED)
def test_what_can_be_zero_can_be_zero(name: str) -> None:
    function, value = REACHED[name]
    bounds, y = bounds_and_value(function, torch.full((3,), value))
    assert bounds.zero is not None
    assert float(y.min()) == 0.0


@pytest.mark.parametrize("name", GUARDED)
def test_a_guard_keeps_zero_away(name: str) -> None:
    bounds, _ = bounds_and_value(GUARDED[name], torch.randn(4, 3))
    assert bounds.zero is None


def test_weights_and_constants_are_not_expected_to_be_zero() -> None:
    net = nn.Linear(3, 3)
    recorder = Recorder(net, ModuleStack(net))
    with recorder:
        results = [functional.relu(net.weight), net.weight.norm(), torch.ones(3, 3).tril().sum()]
    assert [node.bounds.zero for node in recorder.nodes_of(results)] == [None, None, None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_ends_of_exp(dtype: torch.dtype) -> None:
    def at(x: float) -> Tensor:
        return torch.tensor(x, dtype=torch.float64)

    top, bottom = exp_limit(dtype), exp_vanishes(dtype)
    assert torch.isfinite(at(top - 0.1).exp().to(dtype))
    assert torch.isinf(at(top + 0.1).exp().to(dtype))
    assert at(bottom + 0.1).exp().to(dtype) > 0
    assert at(bottom - 0.1).exp().to(dtype) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_where_functions_saturate(dtype: torch.dtype) -> None:
    def near(x: float, step: float) -> Tensor:
        return torch.tensor(x * (1 + step)).to(dtype)

    for function, end in ((torch.sigmoid, saturation(dtype)), (torch.tanh, tanh_saturation(dtype))):
        assert function(near(end, -0.02)) < 1
        assert function(near(end, 0.02)) == 1
    assert functional.elu(-near(elu_saturation(dtype), -0.02)) > -1
    assert functional.elu(-near(elu_saturation(dtype), 0.02)) == -1


def test_numbers_are_rounded_as_tensors_round_them() -> None:
    assert rounded(1 - 1e-8, torch.float32) == 1.0
    assert rounded(1e-8, torch.float16) == 0.0
    assert rounded(-1e9, torch.float16) == -math.inf
    assert rounded(0.999, torch.bfloat16) == 1.0
    assert rounded(1e-8, torch.float64) == 1e-8
    assert rounded(math.inf, torch.float16) == math.inf
    assert rounded(0.5, torch.int64) == 0.5
