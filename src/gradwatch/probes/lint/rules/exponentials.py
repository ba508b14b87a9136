"""Quotients of exponentials, and differences to 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradwatch.probes.lint.bounds import INF, exp_limit, exp_vanishes
from gradwatch.probes.lint.node import (
    Node,
    constant,
    factors,
    is_node,
    less_maximum,
    one_minus,
    operands,
    origin,
    plus_constant,
    scaled,
)
from gradwatch.probes.lint.rules.found import Check, Found, dtype_name

if TYPE_CHECKING:
    from collections.abc import Iterator

_SQUARES = ("pow", "square", "norm", "cdist", "abs")


def _softmax(node: Node) -> Found | None:
    left, right = operands(node)
    guarded = plus_constant(right)
    above = next((factor for factor in (*factors(left), *_summed(left)) if is_node(factor, "exp")), None)
    below = list(_summed(guarded[0] if guarded else right))
    if above is None or not below or any(less_maximum(part.inputs[0]) for part in (above, *below)):
        return None
    for part in below:
        exponent = part.inputs[0]
        if exponent.bounds.high > exp_limit(part.dtype):
            end = exp_limit(part.dtype)
            return Found("softmax-by-hand", f"exp(x) is infinite for x above {end:.0f} in {_name(part)}", exponent)
        if exponent.bounds.low < exp_vanishes(part.dtype) and guarded is None and _is_distance(exponent):
            end = exp_vanishes(part.dtype)
            return Found("softmax-by-hand", f"all of exp(x) is 0 for x below {end:.0f} in {_name(part)}", exponent)
    return None


def _summed(total: Any, depth: int = 0) -> Iterator[Node]:
    """Iterate over the exponentials that a divisor adds up, as sum(exp(x)) or exp(x) + sum(exp(y))."""
    node = origin(total)
    if is_node(node, "sum") and node.inputs:
        yield from (factor for factor in factors(node.inputs[0]) if is_node(factor, "exp"))
    elif is_node(node, "add") and depth < 3:  # noqa: PLR2004 - positives and negatives
        for part in operands(node):
            if is_node(origin(part), "exp"):
                yield origin(part)
            else:
                yield from _summed(part, depth + 1)


def _is_distance(exponent: Node) -> bool:
    """Whether the exponent is a negative square or distance, as of a kernel: it need not come near 0 anywhere."""
    value, sign = scaled(exponent)
    if is_node(value, "sum", "mean") and value.inputs:
        value = origin(value.inputs[0])
    return sign < 0 and is_node(value, *_SQUARES)


def _sigmoid(node: Node) -> Found | None:
    _, right = operands(node)
    divisor = origin(right)
    guarded = plus_constant(divisor)
    if guarded is not None:
        inner = origin(guarded[0])
        if guarded[1] == 1.0 and _overflows(inner):
            return _by_hand(inner)
    if is_node(divisor, "add") and all(is_node(origin(part), "exp") for part in operands(divisor)):
        inner = origin(operands(divisor).left)
        return _by_hand(inner) if _overflows(inner) else None
    return None


def _overflows(node: Any) -> bool:
    return is_node(node, "exp") and node.inputs[0].bounds.high > exp_limit(node.dtype) and node.bounds.high == INF


def _by_hand(inner: Node) -> Found:
    end = exp_limit(inner.dtype)
    text = f"exp(x) is infinite for x above {end:.0f} in {_name(inner)}"
    return Found("sigmoid-by-hand", text, inner.inputs[0], derivative=True)


def _expm1(node: Node) -> Found | None:
    exponential = one_minus(node)
    found = plus_constant(node)
    if exponential is None and found is not None and found[1] == -1.0:
        exponential = found[0]
    source = origin(exponential)
    if not is_node(source, "exp") or constant(source) is not None or is_node(origin(source.inputs[0]), "log_softmax"):
        return None
    return Found("expm1-by-hand", f"exp(x) is close to 1 for small x in {_name(source)}", source.inputs[0])


def _name(node: Node) -> str:
    return dtype_name(node.dtype)


CHECKS: dict[str, tuple[Check, ...]] = {
    "div": (_softmax, _sigmoid),
    "reciprocal": (lambda node: _sigmoid_of(node.inputs[0]),),
    "sub": (_expm1,),
    "add": (_expm1,),
}


def _sigmoid_of(divisor: Node) -> Found | None:
    guarded = plus_constant(divisor)
    if guarded is not None and guarded[1] == 1.0 and _overflows(origin(guarded[0])):
        return _by_hand(origin(guarded[0]))
    return None
