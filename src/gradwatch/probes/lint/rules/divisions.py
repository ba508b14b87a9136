"""Divisions by what can be 0."""

from __future__ import annotations

from typing import Any

import torch

from gradwatch.probes.lint.node import Node, bounds_of, constant, factors, is_node, operands, origin, plus_constant
from gradwatch.probes.lint.rules.found import Check, Found, dtype_name, is_examined, is_whole_number, lost_eps

_TOTALS = ("sum", "nansum", "mean", "nanmean", "cumsum")
_COUNTS = ("bincount", "histc", "count_nonzero", "index_add", "scatter_add", "scatter_reduce")
_SPREADS = ("std", "var")
_BY_OP = {
    **dict.fromkeys(("norm", "cdist", "pdist"), "division-by-norm"),
    **dict.fromkeys(_SPREADS, "division-by-spread"),
    **dict.fromkeys((*_TOTALS, *_COUNTS), "division-by-sum"),
}
_EXTREMES = ("max", "min", "amax", "amin")


def _division(node: Node) -> Found | None:
    return _by(operands(node).right, operands(node).left)


def _of_one(node: Node) -> Found | None:
    return _by(node.inputs[0], 1.0)


def _power(node: Node) -> Found | None:
    base, exponent = operands(node)
    p = constant(exponent)
    return _by(base, 1.0) if p is not None and p < 0.0 else None


def _by(divisor: Any, dividend: Any) -> Found | None:
    """Return the finding of a division, None if nothing is known against the divisor."""
    if not isinstance(divisor, Node) or constant(divisor) is not None:
        return None
    lost = lost_eps(divisor) or _inverse_overflows(divisor, dividend)
    if lost is not None:
        return lost
    why = _why_zero(divisor)
    if why is None or not divisor.depends_on_data or is_examined(divisor):
        return None
    return Found(_code(origin(divisor)), why, divisor)


def _inverse_overflows(divisor: Node, dividend: Any) -> Found | None:
    """Return the finding that a number divided by the eps alone is infinite, as 1 / 1e-7 is in float16."""
    guarded, number = plus_constant(divisor), constant(dividend)
    if guarded is None or number is None or not divisor.dtype.is_floating_point:
        return None
    eps, limit = guarded[1], torch.finfo(divisor.dtype).max
    if 0.0 < eps < 1.0 and bounds_of(guarded[0]).zero is not None and abs(number) / eps > limit:
        return Found("eps-without-effect", f"1 / {eps:g} is infinite in {dtype_name(divisor.dtype)}", divisor)
    return None


def _why_zero(divisor: Node) -> str | None:
    if divisor.bounds.zero is not None:
        return divisor.bounds.zero.text
    total = origin(divisor)
    if is_node(total, "add"):
        return _why_both_zero(*operands(total))
    if not is_node(total, *_TOTALS) or not total.inputs or divisor.bounds.low > 0.0:
        return None
    if divisor.bounds.low < 0.0 and any(_may_select(factor) for factor in factors(total.inputs[0])):
        return "a sum over the batch is 0 where nothing is selected"
    if divisor.bounds.signed:
        return "numbers of both signs can cancel to 0"
    return None


def _why_both_zero(left: Any, right: Any) -> str | None:
    """Say why two totals can be 0 at once, as in a dice loss."""
    both = [origin(part) for part in (left, right)]
    if not all(is_node(part, "add", *_TOTALS) for part in both) or any(part.bounds.low > 0.0 for part in both):
        return None
    reasons = [_why_zero(part) for part in both]
    return reasons[0] if all(reasons) else None


def _may_select(value: Any, depth: int = 0) -> bool:
    """Whether this is a tensor of the batch, such as a mask or weights, or a condition, or a sum with such a factor."""
    if is_node(value, *_TOTALS) and value.inputs and depth < 2:  # noqa: PLR2004 - (q * (k * mask).sum(1)).sum(-1)
        return any(_may_select(factor, depth + 1) for factor in factors(value.inputs[0]))
    return is_node(value, "data") or is_whole_number(value)


def _code(divisor: Any) -> str:
    """Return the rule for a divisor, by how it was computed."""
    if is_node(divisor, "sqrt"):
        inner = origin(divisor.inputs[0])
        return "division-by-norm" if is_node(inner, "sum", "pow", "square", "mean", "mul") else _code(inner)
    if is_node(divisor, "add"):
        return _code(origin(operands(divisor).left))
    if is_node(divisor, "mul") and any(is_node(factor, "norm", "sqrt") for factor in factors(divisor)):
        return "division-by-norm"  # |a| * |b| in a cosine
    if _is_range(divisor):
        return "division-by-spread"
    return _BY_OP.get(divisor.op, "division-by-zero")


def _is_range(node: Any) -> bool:
    return is_node(node, "sub") and any(is_node(origin(part), *_EXTREMES) for part in operands(node))


CHECKS: dict[str, tuple[Check, ...]] = {
    "div": (_division,),
    "floor_divide": (_division,),
    "reciprocal": (_of_one,),
    "rsqrt": (_of_one,),
    "pow": (_power,),
}
