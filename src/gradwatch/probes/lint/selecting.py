"""Bounds of what keeps values away from others: clamps, maxima, and selections by a condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradwatch.probes.lint.arithmetic import MASK, mask_of, negative
from gradwatch.probes.lint.bounds import Bounds, Why, bounded_by, exactly, rounded
from gradwatch.probes.lint.node import Node, bounds_of, constant, operands

if TYPE_CHECKING:
    from collections.abc import Callable


def _clamp(node: Node) -> Bounds:
    low, high = clamp_limits(node)
    found = bounds_of(node.argument(0, "input"))
    if low is not None:
        found = _at_least(found, _limit(low, node), "clamp")
    if high is not None:
        found = negative(_at_least(negative(found), negative(_limit(high, node)), "clamp"))
    return found


def clamp_limits(node: Node) -> tuple[Any, Any]:
    """Return the lower and the upper limit, each a number, a node or None."""
    if node.op == "clamp_min":
        return node.argument(1, "min"), None
    if node.op == "clamp_max":
        return None, node.argument(1, "max")
    return node.argument(1, "min"), node.argument(2, "max")


def _limit(value: Any, node: Node) -> Bounds:
    bounds = bounds_of(value)
    return exactly(rounded(bounds.low, node.dtype)) if bounds.constant is not None else bounds


def _at_least(a: Bounds, limit: Bounds, name: str) -> Bounds:
    """Return the bounds of the larger of x and a limit."""
    low, why = a.low, a.at_low
    if limit.low > a.low:
        low = limit.low
        reached = limit.constant is not None
        why = Why(f"{name} sets everything beyond to {limit.low:g}") if reached else limit.at_low
    high = max(a.high, limit.low)
    return Bounds(low, high, why, a.at_high, a.at_zero if low < 0.0 else None, a.signed and low < 0.0 < high)


def _maximum(node: Node) -> Bounds:
    left, right = (bounds_of(value) for value in operands(node))
    a, b = (right, left) if left.constant is not None else (left, right)
    found = _at_least(a, b, "maximum")
    return found._replace(high=max(a.high, b.high))


def _minimum(node: Node) -> Bounds:
    left, right = (negative(bounds_of(value)) for value in operands(node))
    a, b = (right, left) if left.constant is not None else (left, right)
    found = _at_least(a, b, "minimum")
    return negative(found._replace(high=max(a.high, b.high)))


def _where(node: Node) -> Bounds:
    branches = [node.argument(1, "input", "self"), node.argument(2, "other")]
    if node.op == "masked_fill":
        branches = [node.argument(0, "input"), node.argument(2, "value")]
    if node.op == "setitem":
        branches = [node.argument(0), node.argument(2)]
    first, second = branches
    if constant(first) is not None and constant(second) is None:
        first, second = second, first
    if constant(second) is None:
        return bounded_by([bounds_of(first), bounds_of(second)])
    return _filled(bounds_of(first), constant(second) or 0.0, node.op)


def _filled(a: Bounds, c: float, name: str) -> Bounds:
    """Return the bounds where some elements are replaced by a number: another one than 0 keeps 0 away."""
    if c == 0.0 and not (a.constant is not None and a.constant <= MASK):
        why = Why(f"{name} puts 0 there")
        low_why = why if a.low >= 0.0 else a.at_low
        return Bounds(min(a.low, 0.0), max(a.high, 0.0), low_why, a.at_high, why if a.low < 0 else None, a.signed)
    if c <= MASK:
        return Bounds(min(a.low, c), a.high, mask_of(c), a.at_high, signed=a.signed)
    if a.constant is not None and a.constant <= MASK:
        return Bounds(a.low, max(a.high, c), mask_of(a.low))
    if a.constant == 0.0:
        return Bounds(min(0.0, c), max(0.0, c), Why(f"{name} leaves 0 there") if c > 0 else None)
    return Bounds(min(a.low, c), max(a.high, c))  # whatever was not allowed has been replaced


def _triangle(node: Node) -> Bounds:
    return _filled(bounds_of(node.inputs[0]), 0.0, node.op)


SELECTING: dict[str, Callable[[Node], Bounds]] = {
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp,
    "maximum": _maximum,
    "minimum": _minimum,
    "fmax": _maximum,
    "fmin": _minimum,
    "where": _where,
    "masked_fill": _where,
    "setitem": _where,
    "triu": _triangle,
    "tril": _triangle,
}
