"""Logarithms of probabilities, of exponentials, and of what can be 0."""

from __future__ import annotations

from typing import Any

from gradwatch.probes.lint.bounds import INF, exp_limit, exp_vanishes
from gradwatch.probes.lint.node import (
    Node,
    bounds_of,
    constant,
    factors,
    is_node,
    less_maximum,
    one_minus,
    operands,
    origin,
    plus_constant,
)
from gradwatch.probes.lint.rules.found import Check, Found, dtype_name, is_whole_number, lost_eps

_SOFTMAX = ("softmax", "gumbel_softmax")
_SUMS = ("sum", "mean", "cumsum", "nansum", "matmul", "bmm", "mm", "mv", "einsum", "linear")
_SELECTORS = "data weight one_hot eye gt lt ge le eq ne logical_and logical_or logical_not buffer"


# -- of probabilities --------------------------------------------------------------------------------------------------


def probability(value: Any, depth: int = 0) -> Node | None:
    """Return the softmax or sigmoid whose unguarded probabilities these are, also picked by labels of 0 and 1."""
    node = origin(value)
    if not isinstance(node, Node) or depth > 5:  # noqa: PLR2004 - p*y + (1-p)*(1-y), cast and masked
        return None
    if node.op in {*_SOFTMAX, "sigmoid"}:
        return node
    complement = one_minus(node)
    if complement is not None:
        found = probability(complement, depth + 1)
        return found if is_node(found, "sigmoid") else None
    if node.op == "mul":
        left, right = operands(node)
        picked = left if _selects(right) else (right if _selects(left) else None)
        return probability(picked, depth + 1)
    if node.op in {"add", "where"}:
        parts = operands(node) if node.op == "add" else (node.argument(1, "input"), node.argument(2, "other"))
        sources = [probability(part, depth + 1) for part in parts]
        return sources[0] if all(sources) else None
    inner = origin(node.inputs[0]) if node.op == "sum" and node.inputs else None
    return probability(inner, depth + 1) if is_node(inner, "mul") else None


def _selects(value: Any) -> bool:
    """Whether a factor may be a label or mask of 0 and 1."""
    node = one_minus(value) or origin(value)
    return is_whole_number(node) or is_node(node, *_SELECTORS.split()) or _is_selector_of(node)


def _is_selector_of(node: Any) -> bool:
    found = one_minus(node)
    return found is not None and is_node(origin(found), *_SELECTORS.split())


def _of_probability(node: Node) -> Found | None:
    value = node.argument(0, "input")
    value = _less_one(value) if node.op == "log1p" else value
    source = probability(value)
    if source is None:
        return None
    if source.op in _SOFTMAX:
        why = source.bounds.at_low
        return Found("log-of-softmax", why.text if why else "softmax underflows to 0", source)
    end = -exp_vanishes(source.dtype)
    text = f"sigmoid(x) is 0 for x below {-end:.0f}"
    if source.bounds.at_high is not None and (node.op == "log1p" or one_minus(value) is not None):
        text = source.bounds.at_high.text
    return Found("log-of-sigmoid", text, source)


def _less_one(value: Any) -> Any:
    """Return p of ``log1p(-p)``."""
    node = origin(value)
    return node.inputs[0] if is_node(node, "neg") else None


# -- of exponentials ---------------------------------------------------------------------------------------------------


def _of_exponential(node: Node) -> Found | None:
    value = node.argument(0, "input")
    if node.op == "log1p":
        return _softplus(value)
    guarded = plus_constant(value)
    if guarded and guarded[1] == 1.0 and is_node(origin(guarded[0]), "exp"):
        return _softplus(guarded[0])
    inner = origin(guarded[0] if guarded else value)
    if is_node(inner, "exp") and not _is_bounded(inner.inputs[0], inner, guarded=guarded is not None):
        return Found("log-of-exp", _overflow(inner), inner.inputs[0])
    return _log_sum(inner)


def _softplus(value: Any) -> Found | None:
    inner = origin(value)
    if not is_node(inner, "exp") or inner.bounds.high < INF or _top(inner) <= exp_limit(inner.dtype):
        return None
    return Found("softplus-by-hand", _overflow(inner), inner.inputs[0])


def _log_sum(inner: Any) -> Found | None:
    if is_node(inner, "add"):  # log(exp(x) + exp(y))
        exps = [origin(part) for part in operands(inner) if is_node(origin(part), "exp")]
        free = [exp for exp in exps if not _is_bounded(exp.inputs[0], exp, guarded=True)]
        free = [exp for exp in free if not less_maximum(exp.inputs[0])]
        return Found("logsumexp-by-hand", _overflow(free[0]), free[0].inputs[0]) if free else None
    if not is_node(inner, *_SUMS) or not inner.inputs:
        return None
    for factor in (factor for part in inner.inputs for factor in factors(part)):
        if is_node(factor, "exp") and not less_maximum(factor.inputs[0]):
            exponent = factor.inputs[0]
            if not _is_bounded(exponent, factor, guarded=False) and not is_node(origin(exponent), "log_softmax"):
                return Found("logsumexp-by-hand", _overflow(factor), exponent)
    return None


def _is_bounded(exponent: Node, node: Node, *, guarded: bool) -> bool:
    """Whether exp can neither overflow nor, unless an eps is added to it, underflow."""
    low, high = exponent.bounds.low, exponent.bounds.high
    return high <= exp_limit(node.dtype) and (guarded or low >= exp_vanishes(node.dtype))


def _top(node: Node) -> float:
    return node.inputs[0].bounds.high


def _overflow(node: Node) -> str:
    """Say where exp ends."""
    dtype = dtype_name(node.dtype)
    if _top(node) <= exp_limit(node.dtype):
        return f"exp(x) is 0 for x below {exp_vanishes(node.dtype):.0f} in {dtype}"
    return f"exp(x) is infinite for x above {exp_limit(node.dtype):.0f} in {dtype}"


# -- of zero and below -------------------------------------------------------------------------------------------------


def _of_zero(node: Node) -> Found | None:
    value = node.argument(0, "input")
    lost = lost_eps(value) if node.op != "log1p" else None
    if lost is not None:
        return lost
    bounds = bounds_of(value)
    if node.op == "log1p":
        reached = bounds.at_low if bounds.low == -1.0 else None
        return Found("log-of-zero", reached.text, value) if reached else _of_negative(value, -1.0)
    if bounds.zero is not None:
        return Found("log-of-zero", bounds.zero.text, value)
    return _of_negative(value, 0.0)


def _of_negative(value: Any, end: float) -> Found | None:
    bounds = bounds_of(value)
    if bounds.signed and bounds.low < end and _has_inputs(value):
        return Found("log-of-negative", f"{origin(value).op} gives numbers of both signs", value)
    return None


def _has_inputs(value: Any) -> bool:
    node = origin(value)
    return isinstance(node, Node) and node.depends_on_data


def _one_plus(node: Node) -> Found | None:
    guarded = plus_constant(node.argument(0, "input"))
    if guarded is None or guarded[1] != 1.0 or is_whole_number(guarded[0]) or is_node(origin(guarded[0]), "neg"):
        return None
    x = guarded[0]
    if not x.dtype.is_floating_point or constant(x) is not None or x.bounds.high <= 0.0:
        return None
    return Found("log1p-by-hand", f"1 + x is 1 for x below {_resolution(x):.0e} in {dtype_name(x.dtype)}", x)


def _resolution(node: Node) -> float:
    import torch  # noqa: PLC0415 - for the one number

    return torch.finfo(node.dtype).eps / 2


def _x_log_x(node: Node) -> Found | None:
    value = node.argument(0 if node.op == "entr" else 1, "other", "input")
    zero = bounds_of(value).zero
    if zero is None or not isinstance(value, Node):
        return None
    return Found("derivative-of-xlogx", zero.text, value, derivative=True)


def _logit(node: Node) -> Found | None:
    value, eps = node.argument(0, "input"), node.argument(1, "eps")
    bounds = bounds_of(value)
    why = bounds.zero or (bounds.at_high if bounds.high == 1.0 else None)
    if eps or why is None:
        return None
    return Found("log-of-zero", why.text, value)


def _first(*checks: Check) -> Check:
    def check(node: Node) -> Found | None:
        return next((found for found in (each(node) for each in checks) if found is not None), None)

    return check


_log = _first(_of_probability, _of_exponential, _of_zero, _one_plus)

CHECKS: dict[str, tuple[Check, ...]] = {
    "log": (_log,),
    "log1p": (_first(_of_probability, _of_exponential, _of_zero),),
    "xlogy": (_x_log_x,),
    "entr": (_x_log_x,),
    "logit": (_logit,),
}
