"""Bounds of sums, products, powers, clamps and selections."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gradwatch.probes.lint.bounds import INF, UNKNOWN, Bounds, Why, exactly
from gradwatch.probes.lint.node import (
    Node,
    bounds_of,
    constant,
    identical,
    is_node,
    is_norm_of,
    is_unit,
    operands,
    origin,
    plus_constant,
    same,
)

if TYPE_CHECKING:
    from collections.abc import Callable

MASK = -1e4  # what is written into a score to leave it out
_UNIT = Bounds(-1.0, 1.0, signed=True)
_LARGEST = ("max", "amax", "logsumexp")
_SMALLEST = ("min", "amin")


def _add(node: Node) -> Bounds:
    left, right = operands(node)
    if node.argument(2, "alpha", default=1) != 1:
        return UNKNOWN
    return plus(bounds_of(left), bounds_of(right))


def plus(a: Bounds, b: Bounds) -> Bounds:
    """Return the bounds of a sum."""
    low, high = a.low + b.low, a.high + b.high
    at_low = _both(a, b, a.at_low, b.at_low)
    at_high = _both(a, b, a.at_high, b.at_high)
    signed = (a.signed or b.signed) and low < 0.0 < high
    return Bounds(low, high, at_low, at_high, None, signed)


def _both(a: Bounds, b: Bounds, of_a: Why | None, of_b: Why | None) -> Why | None:
    if b.constant is not None:
        return of_a
    if a.constant is not None:
        return of_b
    return of_a if of_a and of_b else None


def negative(a: Bounds) -> Bounds:
    """Return the bounds of -x."""
    return Bounds(-a.high, -a.low, a.at_high, a.at_low, a.at_zero, a.signed)


def _sub(node: Node) -> Bounds:
    left, right = operands(node)
    if node.argument(2, "alpha", default=1) != 1:
        return UNKNOWN
    to_extreme = _distance_to_extreme(left, right)
    if to_extreme is not None:
        return to_extreme
    found = plus(bounds_of(left), negative(bounds_of(right)))
    if same(left, right):
        return found._replace(at_zero=Why("the difference of an element and itself is 0"), signed=True)
    return found._replace(signed=True) if _either_may_be_larger(left, right) else found


def _either_may_be_larger(left: Any, right: Any) -> bool:
    """Whether two positive quantities are compared, as in a discriminant."""
    both = (left, right)
    return all(is_node(x) and x.depends_on_data and x.bounds.low >= 0.0 and x.bounds.high == INF for x in both)


def _distance_to_extreme(left: Any, right: Any) -> Bounds | None:
    """Return the bounds of max(x) - min(x), max(x) - x, x - max(x) or x - min(x), None of anything else."""
    top, bottom = origin(left), origin(right)
    if is_node(top, *_LARGEST) and is_node(bottom, *_SMALLEST) and same(top.inputs[0], bottom.inputs[0]):
        return Bounds(0.0, INF, Why("the range of equal values is 0"))
    itself = Why("the extreme value lies 0 away from itself", rare=True)
    if _extremes_of(left, right, *_LARGEST) or _extremes_of(right, left, *_SMALLEST):
        return Bounds(0.0, INF, itself)
    return Bounds(-INF, 0.0, None, itself) if _extremes_of(right, left, *_LARGEST) else None


def _extremes_of(extreme: Any, value: Any, *ops: str) -> bool:
    node = origin(extreme)
    return is_node(node, *ops) and bool(node.inputs) and same(node.inputs[0], value)


def _mul(node: Node) -> Bounds:
    left, right = operands(node)
    if identical(left, right):
        return squared(left)
    a, b = bounds_of(left), bounds_of(right)
    c = constant(right) if constant(right) is not None else constant(left)
    if c is not None:
        value = left if constant(right) is not None else right
        return _mask(value, c) or times(bounds_of(value), c)
    if a.low >= 0.0 and b.low >= 0.0:
        low, high = _product(a.low, b.low), _product(a.high, b.high)
        return Bounds(low, high, _plainest(a, b) if low == 0.0 else None, _both(a, b, a.at_high, b.at_high))
    if a.low >= 0.0 and b.high <= 0.0:
        return negative(Bounds(0.0, INF, _plainest(a, b)))
    return Bounds(at_zero=_plainest(a, b), signed=a.signed or b.signed)


def _plainest(a: Bounds, b: Bounds) -> Why | None:
    """Return why one of two factors is 0, the more frequent reason first."""
    reasons = [why for why in (a.zero, b.zero) if why is not None]
    return min(reasons, key=lambda why: why.rare, default=None)


def _mask(value: Any, c: float) -> Bounds | None:
    """Return the bounds of ``(1 - keep) * -1e9`` and ``(keep - 1) * 1e9``, None if it is no mask."""
    a = bounds_of(value)
    if c <= MASK and (a == UNKNOWN or (a.low >= 0.0 and a.high == 1.0)):
        return Bounds(c, 0.0, mask_of(c))
    less_one = plus_constant(value)
    if c >= -MASK and less_one is not None and less_one[1] == -1.0:
        return Bounds(-c, 0.0, mask_of(-c))
    return None


def mask_of(c: float) -> Why:
    """Return why a mask holds ``c``."""
    return Why(f"the mask holds {c:g}", mask=True)


def _product(a: float, b: float) -> float:
    return 0.0 if a == 0.0 or b == 0.0 else a * b


def times(a: Bounds, c: float) -> Bounds:
    """Return the bounds of c * x."""
    if c == 0.0:
        return exactly(0.0)
    found = a._replace(low=a.low * abs(c), high=a.high * abs(c))
    return found if c > 0 else negative(found)


def squared(value: Any) -> Bounds:
    """Return the bounds of x * x."""
    a = bounds_of(value)
    low = min(abs(a.low), abs(a.high)) if a.low > 0.0 or a.high < 0.0 else 0.0
    largest = max(abs(a.low), abs(a.high))
    high = largest * largest
    if low > 0.0 or is_unit(value) or plus_constant(value) is not None:
        return Bounds(low * low, high)
    reason = a.zero or (None if a.low == 0.0 else Why("a square is 0 where its base is 0"))
    return Bounds(0.0, high, reason, _largest(a))


def _largest(a: Bounds) -> Why | None:
    return a.at_high if a.high >= abs(a.low) else a.at_low


def _div(node: Node) -> Bounds:
    left, right = operands(node)
    a, b = bounds_of(left), bounds_of(right)
    if constant(right) not in {None, 0.0}:
        return times(a, 1.0 / (constant(right) or 1.0))
    if is_norm_of(left, right):
        return _UNIT
    if a.low < 0.0 or b.low < 0.0:
        return Bounds(at_zero=a.zero, signed=a.signed or b.signed)
    low = 0.0 if b.high == INF else a.low / b.high if b.high else 0.0
    high = a.high / b.low if b.low > 0.0 else INF
    if _is_share(left, right):
        high = 1.0
    return Bounds(low, high, a.zero if a.low == 0.0 else None, b.at_low if high < INF and a.constant else None)


def _is_share(part: Any, whole: Any) -> bool:
    node = origin(whole)
    return is_node(node, "sum") and bounds_of(part).low >= 0.0 and same(node.inputs[0], part)


def _reciprocal(node: Node) -> Bounds:
    a = bounds_of(node.inputs[0])
    if a.low < 0.0:
        return Bounds(signed=a.signed)
    power = 0.5 if node.op == "rsqrt" else 1.0
    return Bounds(0.0 if a.high == INF else a.high**-power if a.high else 0.0, a.low**-power if a.low > 0 else INF)


def _pow(node: Node) -> Bounds:
    base, exponent = operands(node)
    p, a = constant(exponent), bounds_of(base)
    if p is None:
        return Bounds(0.0, INF, a.at_low) if a.low >= 0.0 else UNKNOWN
    if p == 2.0:  # noqa: PLR2004
        return squared(base)
    if a.low < 0.0 and p % 2 == 0.0 and p > 0.0:
        return squared(base)._replace(high=INF)
    if a.low < 0.0:
        return Bounds(signed=a.signed and p % 2 == 1.0)
    if p > 0.0:
        return Bounds(_power(a.low, p), _power(a.high, p), a.at_low, a.at_high)
    return Bounds(0.0 if a.high == INF else _power(a.high, p), _power(a.low, p) if a.low > 0.0 else INF)


def _power(x: float, p: float) -> float:
    try:
        return float(x**p)
    except (OverflowError, ZeroDivisionError):
        return INF


def _neg(node: Node) -> Bounds:
    return negative(bounds_of(node.inputs[0]))


def is_whole(p: float | None) -> bool:
    """Whether an exponent is a whole number."""
    return p is not None and math.isfinite(p) and p == int(p)


ARITHMETIC: dict[str, Callable[[Node], Bounds]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "pow": _pow,
    "square": lambda node: squared(node.inputs[0]),
    "reciprocal": _reciprocal,
    "rsqrt": _reciprocal,
}
