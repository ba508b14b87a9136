"""Bounds of functions of one number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradwatch.probes.lint.bounds import (
    INF,
    SIGNED,
    Bounds,
    Why,
    elu_saturation,
    exp_vanishes,
    rounded,
    saturation,
    tanh_saturation,
)
from gradwatch.probes.lint.node import Node, bounds_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def _of(node: Node) -> Bounds:
    return bounds_of(node.argument(0, "input", "self"))


def _exp(node: Node) -> Bounds:
    of = _of(node)
    low, why = _exponential(of.low), of.at_low
    if of.low == -INF:
        end = exp_vanishes(node.dtype)
        why = Why(f"exp(x) is 0 for x below {end:.0f}", rare=True) if of.high <= 0.0 or end > -20.0 else None  # noqa: PLR2004
    return Bounds(low, _exponential(of.high), why, of.at_high)


def _exponential(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return INF


def _logarithm(x: float) -> float:
    return -INF if x <= 0.0 else (math.log(x) if x < INF else INF)


def _log(node: Node) -> Bounds:
    """Bounds for every base: 1 is where they agree."""
    of = _of(node)
    at_high = of.at_high if of.high == 1.0 else None
    return Bounds(0.0 if of.low >= 1.0 else -INF, 0.0 if of.high <= 1.0 else INF, None, at_high)


def _sqrt(node: Node) -> Bounds:
    of = _of(node)
    at_low = of.at_low if of.low >= 0.0 else None
    return Bounds(math.sqrt(max(of.low, 0.0)), math.sqrt(max(of.high, 0.0)), at_low, of.at_high)


def _sigmoid(node: Node) -> Bounds:
    end = saturation(node.dtype)
    low = Why(f"sigmoid(x) is 0 for x below {exp_vanishes(node.dtype):.0f}", rare=True)
    return Bounds(
        0.0, 1.0, low if _is_half(node.dtype) else None, Why(f"sigmoid(x) is 1 for x above {end:.1f}", rare=True)
    )


def _is_half(dtype: torch.dtype) -> bool:
    return exp_vanishes(dtype) > -20.0  # noqa: PLR2004 - bfloat16 reaches as far down as float32


def _softmax(node: Node) -> Bounds:
    gap = -exp_vanishes(node.dtype)
    return Bounds(
        0.0,
        1.0,
        Why(f"softmax is 0 where a logit is -inf or {gap:.0f} below the largest", rare=True),
        Why(f"softmax is 1 where a logit is {saturation(node.dtype):.1f} above all others", rare=True),
    )


def _tanh(node: Node) -> Bounds:
    end = tanh_saturation(node.dtype)
    return Bounds(
        -1.0,
        1.0,
        Why(f"tanh(x) is -1 for x below {-end:.1f}", rare=True),
        Why(f"tanh(x) is 1 for x above {end:.1f}", rare=True),
        signed=True,
    )


def _relu(node: Node) -> Bounds:
    of = _of(node)
    if of.low > 0.0:
        return of
    high = rounded(6.0, node.dtype) if node.op == "relu6" else INF
    return Bounds(0.0, min(of.high, high), Why("relu is 0 wherever its input is negative"))


def _elu(node: Node) -> Bounds:
    alpha = node.argument(1, "alpha", default=1.0)
    if not isinstance(alpha, (int, float)):
        return SIGNED
    end = elu_saturation(node.dtype)
    return Bounds(-alpha, INF, Why(f"elu(x) is {-alpha} for x below {-end:.1f}", rare=True), signed=True)


def _softplus(node: Node) -> Bounds:
    return Bounds(0.0, INF, Why(f"softplus(x) is 0 for x below {exp_vanishes(node.dtype):.0f}", rare=True))


def _abs(node: Node) -> Bounds:
    of = _of(node)
    if of.low > 0.0 or (of.low == 0.0 and of.at_low is None):
        return of
    return Bounds(0.0, max(abs(of.low), of.high), of.at_low if of.low == 0 else Why("abs(x) is 0 where x is 0"))


def _expm1(node: Node) -> Bounds:
    of = _of(node)
    return Bounds(_exponential(of.low) - 1, _exponential(of.high) - 1, of.at_low, of.at_high)


def _log1p(node: Node) -> Bounds:
    of = _of(node)
    return Bounds(_logarithm(1 + of.low), _logarithm(1 + of.high), of.at_low if of.low == 0 else None, of.at_high)


def _clamped(node: Node) -> Bounds:
    """Bounds of hardtanh, which clamps between numbers."""
    low, high = node.argument(1, "min_val", default=-1.0), node.argument(2, "max_val", default=1.0)
    return Bounds(float(low), float(high), Why(f"hardtanh is {low} below"), Why(f"hardtanh is {high} above"))


_FLAT: dict[str, Bounds] = {
    "cos": Bounds(-1.0, 1.0, at_high=Why("cos(0) is 1"), signed=True),
    "sin": Bounds(-1.0, 1.0, signed=True),
    "erf": Bounds(-1.0, 1.0, Why("erf(x) is -1 below -4", rare=True), Why("erf(x) is 1 above 4", rare=True)),
    "softsign": Bounds(-1.0, 1.0, signed=True),
    "logsigmoid": Bounds(-INF, 0.0, None, Why("logsigmoid(x) rounds to 0 for large x", rare=True)),
    "hardsigmoid": Bounds(0.0, 1.0, Why("hardsigmoid is 0 below -3"), Why("hardsigmoid is 1 above 3")),
    "log_softmax": Bounds(-INF, 0.0, None, Why("the log of a probability near 1 rounds to 0", rare=True)),
}


def _always(bounds: Bounds) -> Callable[[Node], Bounds]:
    return lambda _: bounds


ELEMENTWISE: dict[str, Callable[[Node], Bounds]] = {
    **{name: _always(bounds) for name, bounds in _FLAT.items()},
    **dict.fromkeys(("relu", "relu6"), _relu),
    **dict.fromkeys(("elu", "celu"), _elu),
    **dict.fromkeys(("softmax", "gumbel_softmax"), _softmax),
    "exp": _exp,
    "expm1": _expm1,
    "log": _log,
    "log1p": _log1p,
    "sqrt": _sqrt,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "softplus": _softplus,
    "abs": _abs,
    "hardtanh": _clamped,
}
