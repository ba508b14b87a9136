"""Numbers that a dtype cannot hold: masks that overflow, and limits that round to what they were to keep away."""

from __future__ import annotations

import math
from typing import Any

import torch

from gradwatch.probes.lint.arithmetic import MASK
from gradwatch.probes.lint.bounds import Why, rounded
from gradwatch.probes.lint.node import Node, bounds_of, constant, is_node, operands, origin
from gradwatch.probes.lint.rules.found import Check, Found, dtype_name
from gradwatch.probes.lint.selecting import clamp_limits

_MOST_MASKS = 6
_EDGES = (0.0, 1.0, -1.0)


def _clamp(node: Node) -> Found | None:
    for limit in clamp_limits(node):
        c = constant(limit)
        if c is None or not node.dtype.is_floating_point:
            continue
        kept = rounded(c, node.dtype)
        if kept != c and kept in _EDGES:
            return Found("clamp-without-effect", f"{_exact(c)} is {kept:g} in {dtype_name(node.dtype)}", node)
    return None


def _exact(c: float) -> str:
    near = 1.0 - abs(c)
    return f"{'-' if c < 0 else ''}(1 - {near:.1g})" if 0.0 < near < 1e-3 else f"{c:g}"  # noqa: PLR2004


def _sum(node: Node) -> Found | None:
    if not node.dtype.is_floating_point:
        return None
    lows = [_depth(part) for part in operands(node)]
    if all(low < 0.0 for low in lows) and rounded(sum(lows), node.dtype) == -math.inf:
        return Found("mask-overflow", f"masks of {lows[0]:g} and {lows[1]:g} meet", None)
    if node.dtype is torch.float16 and min(lows) <= torch.finfo(node.dtype).min and 0.0 in lows:
        return Found("mask-overflow", "a score below -16 is added to the most negative number", None)
    return None


def _depth(value: Any, depth: int = 0) -> float:
    """Return how far down the masks reach that have been added so far; 0 without one, or with one of -inf."""
    node = origin(value)
    if not isinstance(node, Node) or depth > _MOST_MASKS:
        return 0.0
    if _mask(value) is not None:
        return bounds_of(value).low if bounds_of(value).low > -math.inf else 0.0
    if is_node(node, "add"):
        return sum(_depth(part, depth + 1) for part in operands(node))
    return 0.0


def _mask(value: Any) -> Why | None:
    if not isinstance(value, Node):
        return None
    why = value.bounds.at_low
    if why is not None and why.mask:
        return why
    c = value.bounds.constant
    return Why("", mask=True) if c is not None and c <= MASK else None


def _product(node: Node) -> Found | None:
    left, right = operands(node)
    c = constant(right) if constant(right) is not None else constant(left)
    if c is None or not node.dtype.is_floating_point or not math.isfinite(c):
        return None
    value = left if constant(right) is not None else right
    if node.op == "mul" and abs(c) >= -MASK and math.isinf(rounded(c, node.dtype)) and isinstance(value, Node):
        return Found("mask-beyond-range", f"{c:g} is infinite in {dtype_name(node.dtype)}", None)
    if _mask(value) is None or not isinstance(value, Node):
        return None
    low = value.bounds.low * (c if node.op == "mul" else 1.0 / c if c else 1.0)
    if c > 0.0 and -math.inf < value.bounds.low and rounded(low, node.dtype) == -math.inf:
        return Found("mask-overflow", f"a mask of {value.bounds.low:g} is scaled", value)
    return None


def _cast(node: Node) -> Found | None:
    value = origin_of_cast(node)
    if value is None or _mask(value) is None or not node.dtype.is_floating_point:
        return None
    low = value.bounds.low
    if -math.inf < low and rounded(low, node.dtype) == -math.inf:
        return Found("mask-beyond-range", f"{low:g} is infinite in {dtype_name(node.dtype)}", None)
    return None


def origin_of_cast(node: Node) -> Node | None:
    """Return what is cast, None if the dtype stays."""
    value = node.inputs[0] if node.inputs else None
    return value if value is not None and value.dtype is not node.dtype and is_node(origin(value)) else None


CHECKS: dict[str, tuple[Check, ...]] = {
    "clamp": (_clamp,),
    "clamp_min": (_clamp,),
    "clamp_max": (_clamp,),
    "add": (_sum,),
    "mul": (_product,),
    "div": (_product,),
    **dict.fromkeys(("to", "type_as", "half", "bfloat16", "type"), (_cast,)),
}
