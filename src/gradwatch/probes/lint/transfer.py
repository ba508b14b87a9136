"""How the bounds of a result follow from those of its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.probes.lint.arithmetic import ARITHMETIC
from gradwatch.probes.lint.bounds import CONDITION, INF, SIGNED, UNKNOWN, Bounds, Why, bounded_by, rounded
from gradwatch.probes.lint.creation import CREATION
from gradwatch.probes.lint.elementwise import ELEMENTWISE
from gradwatch.probes.lint.node import VIEWS, Node, bounds_of, is_node, is_unit, origin, plus_constant
from gradwatch.probes.lint.selecting import SELECTING

if TYPE_CHECKING:
    from collections.abc import Callable

_POOLS = "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d avg_pool1d avg_pool2d avg_pool3d"
_MADE_BOTH_WAYS = (
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d addmm baddbmm layer_norm "
    "batch_norm group_norm instance_norm rms_norm embedding bilinear multi_head_attention_forward leaky_relu prelu "
    "silu gelu mish selu lstm gru rnn_tanh lstm_cell gru_cell randn randn_like normal normal_ tanhshrink rrelu"
)
_CONFIDENT = Why("the loss of a confident prediction rounds to 0", rare=True)


def bounds_after(node: Node) -> Bounds:
    """Return what is known of the values of ``node``."""
    follow = _FOLLOW.get(node.op)
    found = UNKNOWN if follow is None else follow(node)
    found = found._replace(low=rounded(found.low, node.dtype), high=rounded(found.high, node.dtype))
    return found if node.depends_on_data else found.without_reasons()


def _of(node: Node, position: int = 0) -> Bounds:
    return bounds_of(node.argument(position, "input", "self"))


def _same(node: Node) -> Bounds:
    return _of(node) if node.inputs else UNKNOWN


def _pooled(node: Node) -> Bounds:
    return _crowd(_of(node))


def _crowd(bounds: Bounds) -> Bounds:
    """Return the bounds of a mean: it reaches one only if all elements do."""
    low, high = bounds.at_low, bounds.at_high
    return bounds._replace(at_low=None if low and low.rare else low, at_high=None if high and high.rare else high)


def _chosen(node: Node) -> Bounds:
    """Bounds of max and min, which take all elements, an axis, or two tensors."""
    other = node.argument(1, "other")
    if node.output == 1:
        return UNKNOWN  # indices
    if isinstance(other, Node):
        return SELECTING["maximum" if node.op == "max" else "minimum"](node)
    source = origin(node.inputs[0]) if node.inputs else None
    if node.op in {"max", "amax"} and isinstance(source, Node) and source.op == "softmax":
        return Bounds(1.0 / max(source.shape[-1] if source.shape else 1, 2), 1.0)
    bounds = _of(node)
    if node.op in {"max", "amax"}:
        return bounds._replace(at_low=bounds.at_low if bounds.at_low and not bounds.at_low.rare else None)
    return bounds


# -- reductions --------------------------------------------------------------------------------------------------------


def _sum(node: Node) -> Bounds:
    bounds = _of(node)
    if _is_cosine(node):
        return _COSINE
    if bounds.low < 0.0:
        return Bounds(signed=bounds.signed)
    if bounds.low > 0.0:
        return Bounds(bounds.low, INF)
    why = bounds.at_low
    return Bounds(0.0, INF, None if why is None or why.rare else Why(f"all summands can be 0: {why.text}"))


def _is_cosine(node: Node) -> bool:
    product = origin(node.argument(0, "input"))
    return isinstance(product, Node) and product.op == "mul" and all(is_unit(part) for part in product.inputs)


_COSINE = Bounds(
    -1.0,
    1.0,
    Why("the cosine of opposite vectors is -1, and rounding takes it beyond"),
    Why("the cosine of parallel vectors is 1, and rounding takes it beyond"),
    signed=True,
)


def _mean(node: Node) -> Bounds:
    return _crowd(_of(node))


def _prod(node: Node) -> Bounds:
    bounds = _of(node)
    if bounds.low < 0.0:
        return Bounds(signed=bounds.signed)
    why = bounds.zero or (Why("a product of many factors below 1 underflows") if bounds.high <= 1.0 else None)
    return Bounds(0.0, bounds.high if bounds.high <= 1.0 else INF, why)


def _norm(node: Node) -> Bounds:
    source = node.argument(0, "input", "A", "x")
    if bounds_of(source).low > 0.0 or is_unit(source) or plus_constant(source) is not None:
        return Bounds(0.0, INF)
    difference = origin(source)
    between_units = is_node(difference, "sub", "add") and all(is_unit(part) for part in difference.inputs)
    return Bounds(0.0, 2.0 if between_units else INF, Why("the norm of a vector of zeros is 0"))


def _matmul(node: Node) -> Bounds:
    if len(node.inputs) < 2:  # noqa: PLR2004 - an einsum of one tensor
        return UNKNOWN
    if all(is_unit(part) for part in node.inputs):
        return _COSINE
    known = [part.bounds for part in node.inputs]
    if all(bounds.low >= 0.0 for bounds in known):
        why = next((b.zero for b in known if b.zero and not b.zero.rare), None)
        return Bounds(0.0, INF, why)
    weighted = any(not part.depends_on_data for part in node.inputs)
    return Bounds(signed=weighted or any(bounds.signed for bounds in known))


def _grouped(node: Node) -> Bounds:
    """Sums into groups: a group may have no members."""
    source = node.argument(3, "src", "source") or node.argument(2, "src", "source")
    bounds = bounds_of(source) if source is not None else UNKNOWN
    if bounds.low < 0.0 or not node.inputs or node.inputs[0].bounds.low < 0.0:
        return Bounds(signed=bounds.signed)
    return Bounds(node.inputs[0].bounds.low, INF, Why("a group without members sums to 0"))


def _dropout(node: Node) -> Bounds:
    of = _of(node)
    why = Why("dropout sets elements to 0")
    if of.low >= 0.0:
        return Bounds(0.0, INF, of.at_low or why)
    return Bounds(at_zero=why, signed=of.signed)


def _joined(node: Node) -> Bounds:
    parts = [part.bounds for part in node.inputs]
    return bounded_by(parts) if parts else UNKNOWN


_FLAT: dict[str, Bounds] = {
    "normalize": Bounds(-1.0, 1.0, signed=True),
    "cosine_similarity": _COSINE,
    "mse_loss": Bounds(0.0, INF, Why("a mean of squares is 0 where all differences are")),
    "l1_loss": Bounds(0.0, INF, Why("a mean of differences is 0 where all of them are")),
    "smooth_l1_loss": Bounds(0.0, INF, Why("a mean of differences is 0 where all of them are")),
    "huber_loss": Bounds(0.0, INF, Why("a mean of differences is 0 where all of them are")),
    "cross_entropy": Bounds(0.0, INF, _CONFIDENT),
    "cdist": Bounds(0.0, INF, Why("the distance of two equal points is 0")),
    "pdist": Bounds(0.0, INF, Why("the distance of two equal points is 0")),
    "pairwise_distance": Bounds(0.0, INF),
    "rand": Bounds(0.0, 1.0, Why("torch.rand draws exactly 0 once in 2^24 numbers", rare=True)),
    "bernoulli": Bounds(0.0, 1.0, Why("a draw may be 0 everywhere"), Why("a draw may be 1 everywhere")),
    "one_hot": Bounds(0.0, 1.0, Why("a class that does not occur has a column of 0")),
}
_CONDITIONS = (
    "gt lt ge le eq ne greater less greater_equal less_equal not_equal isnan isinf isfinite logical_and logical_or "
    "logical_not logical_xor __and__ __or__ __xor__ __invert__ bitwise_and bitwise_or bitwise_not isin isclose any all"
)
_COUNTS = "bincount histc count_nonzero histogram"


def _always(bounds: Bounds) -> Callable[[Node], Bounds]:
    return lambda _: bounds


_FOLLOW: dict[str, Callable[[Node], Bounds]] = {
    **{name: _always(bounds) for name, bounds in _FLAT.items()},
    **dict.fromkeys(_MADE_BOTH_WAYS.split(), _always(SIGNED)),
    **dict.fromkeys(_CONDITIONS.split(), _always(CONDITION)),
    **dict.fromkeys(_COUNTS.split(), _always(Bounds(0.0, INF, Why("a count is 0 where nothing is counted")))),
    **dict.fromkeys(VIEWS, _same),
    **dict.fromkeys(_POOLS.split(), _pooled),
    **dict.fromkeys(("max", "min", "amax", "amin", "topk", "sort", "median", "kthvalue", "cummax", "cummin"), _chosen),
    **dict.fromkeys(("sum", "nansum", "cumsum"), _sum),
    **dict.fromkeys(("mean", "nanmean", "adaptive_avg_pool1d", "adaptive_avg_pool2d"), _mean),
    **dict.fromkeys(("prod", "cumprod"), _prod),
    **dict.fromkeys(("std", "var"), _always(Bounds(0.0, INF, Why("the spread of equal values is 0")))),
    **dict.fromkeys(("matmul", "bmm", "mm", "mv", "dot", "einsum", "tensordot", "inner"), _matmul),
    **dict.fromkeys(("index_add", "scatter_add", "scatter_reduce", "index_reduce"), _grouped),
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "feature_dropout"), _dropout),
    **dict.fromkeys(("cat", "stack", "hstack", "vstack", "dstack", "column_stack"), _joined),
    "norm": _norm,
    "hypot": _always(Bounds(0.0, INF, Why("both are 0"))),
    **ELEMENTWISE,
    **ARITHMETIC,
    **SELECTING,
    **CREATION,
}
