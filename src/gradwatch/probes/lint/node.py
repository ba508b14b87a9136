"""The graph of a step: one node for each result of an operation, without its values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gradwatch.probes.lint.bounds import UNKNOWN, Bounds, exactly, words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradwatch.probes.lint.calls import Call

# They give other names, shapes or formats to the same numbers, or pick some of them.
VIEWS = words(
    "view reshape view_as reshape_as flatten unflatten ravel squeeze unsqueeze transpose t permute movedim moveaxis "
    "swapaxes swapdims expand expand_as broadcast_to broadcast_tensors repeat tile repeat_interleave contiguous clone "
    "detach detach_ alias to type_as type float half bfloat16 double cpu cuda data T mT H mH real narrow select "
    "getitem index_select gather take take_along_dim masked_select split chunk unbind tensor_split hsplit vsplit "
    "diagonal diag flip roll rot90 unfold as_strided atleast_1d atleast_2d atleast_3d requires_grad_ squeeze_ "
    "unsqueeze_ as_tensor lift view_as_real _to_copy broadcast_tensors identity coalesce to_dense"
)
# Of these, what leaves every element at its place, and what keeps all elements in another shape.
_CASTS = words(
    "contiguous clone detach detach_ alias to type_as type float half bfloat16 double cpu cuda data identity"
)
_SHAPES = _CASTS | words(
    "view reshape view_as reshape_as flatten unflatten ravel squeeze unsqueeze transpose t permute movedim swapaxes "
    "expand expand_as broadcast_to T mT requires_grad_"
)
MAX_DEPTH = 12


@dataclass(slots=True, eq=False)
class Node:
    """One tensor of the step.

    Args:
        index: position in the order of execution.
        op: name of the operation; "weight" or "data" for tensors from before the step.
        args, kwargs: of the call, with nodes in place of tensors.
        inputs: the nodes among them.
        dtype, shape: of the result.
        call: who has called the operation.
        needs_grad: a derivative will be taken through this operation, if the loss depends on it.
        depends_on_data: the value depends on the batch or on random numbers, not on weights and constants alone.
        crosses: gradients pass although the operation itself recorded none, as in a custom Function.
        unseen: made from tensors that nobody has seen.
        output: which of several results.
        bounds: what is known of the values.
        mended: a later operation replaces what is not finite.
        examined: Python has looked at the value, as `if n > 0` does.
    """

    index: int
    op: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Node, ...] = ()
    dtype: torch.dtype = torch.float32
    shape: tuple[int, ...] = ()
    call: Call | None = None
    needs_grad: bool = False
    depends_on_data: bool = True
    crosses: bool = False
    unseen: bool = False
    output: int = 0
    bounds: Bounds = UNKNOWN
    mended: bool = False
    examined: bool = False

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """Return an argument by position or name."""
        if position < len(self.args):
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)


class Pair(NamedTuple):
    """The operands of a binary operation, in the order of the formula."""

    left: Any
    right: Any


def operands(node: Node) -> Pair:
    """Return the operands of +, -, *, / or a power, as nodes or numbers."""
    first = node.argument(0, "input", "self", "exponent")
    second = node.argument(1, "other", "exponent")
    return Pair(first, second)


def is_node(value: Any, *ops: str) -> bool:
    """Whether ``value`` is a node, and of one of these operations."""
    return isinstance(value, Node) and (not ops or value.op in ops)


def bounds_of(value: Any) -> Bounds:
    """Return what is known of an operand."""
    if isinstance(value, Node):
        return value.bounds
    return exactly(float(value)) if isinstance(value, (int, float)) else UNKNOWN


def constant(value: Any) -> float | None:
    """Return the number that an operand is, None if it is none."""
    if isinstance(value, Node) and value.depends_on_data:
        return None
    return bounds_of(value).constant


def origin(value: Any) -> Any:
    """Return the node whose numbers these are, behind views, casts, copies and selections."""
    for _ in range(MAX_DEPTH):
        if not (isinstance(value, Node) and value.op in VIEWS and value.inputs):
            break
        value = value.inputs[0]
    return value


def identical(left: Any, right: Any) -> bool:
    """Whether two operands agree element by element."""
    return isinstance(left, Node) and _behind(left, _CASTS) is _behind(right, _CASTS)


def same(left: Any, right: Any) -> bool:
    """Whether two operands hold the same numbers, in whatever shape."""
    return isinstance(left, Node) and _behind(left, _SHAPES) is _behind(right, _SHAPES)


def _behind(value: Any, ops: frozenset[str]) -> Any:
    for _ in range(MAX_DEPTH):
        new_axis = is_node(value, "getitem") and value.output == 0 and _adds_axes(value)
        if not (isinstance(value, Node) and value.inputs and (value.op in ops or (new_axis and ops is _SHAPES))):
            break
        value = value.inputs[0]
    return value


def _adds_axes(node: Node) -> bool:
    """Whether an index is made of ``None``, ``:`` and ``...`` alone, which are all None in the graph."""
    index = node.argument(1)
    return index is None or (isinstance(index, tuple) and all(part is None for part in index))


def plus_constant(value: Any) -> tuple[Node, float] | None:
    """Return x and c of ``x + c``, ``c + x`` or ``x - c``."""
    node = origin(value)
    if not is_node(node, "add", "sub"):
        return None
    left, right = operands(node)
    c = constant(right)
    if c is not None and isinstance(left, Node):
        return left, (c if node.op == "add" else -c)
    c = constant(left)
    if c is not None and isinstance(right, Node) and node.op == "add":
        return right, c
    return None


def one_minus(value: Any) -> Node | None:
    """Return x of ``1 - x``."""
    node = origin(value)
    if is_node(node, "sub"):
        left, right = operands(node)
        return right if constant(left) == 1.0 and isinstance(right, Node) else None
    found = plus_constant(node)
    if found and found[1] == 1.0 and is_node(origin(found[0]), "neg"):
        return _node(origin(found[0]).inputs[0])
    return None


def scaled(value: Any) -> tuple[Any, float]:
    """Return x and the sign of c of ``c * x``, ``x / c`` or ``-x``, as often as it is scaled; c is 0 if unknown."""
    sign = 1.0
    for _ in range(MAX_DEPTH):
        value = origin(value)
        if is_node(value, "neg"):
            value, sign = value.inputs[0], -sign
            continue
        if not is_node(value, "mul", "div"):
            break
        left, right = operands(value)
        if constant(right) is not None:
            value, sign = left, sign * _sign(constant(right))
        elif constant(left) is not None and value.op == "mul":
            value, sign = right, sign * _sign(constant(left))
        else:
            break
    return value, sign


def _sign(c: float | None) -> float:
    return 0.0 if not c else (1.0 if c > 0 else -1.0)


def _node(value: Any) -> Node | None:
    return value if isinstance(value, Node) else None


def less_maximum(value: Any) -> bool:
    """Whether this is ``x - max(x)``, scaled or not, so that its largest element is 0."""
    node, sign = scaled(value)
    if not is_node(node, "sub") or sign < 0:
        return False
    left, right = operands(node)
    top = origin(right)
    if is_node(top, "max", "amax", "logsumexp", "cummax", "maximum"):
        return any(_related(left, part) for part in top.inputs)
    return is_node(top, "stack", "cat", "where", "masked_fill", "clamp") and any(
        is_node(origin(part), "max", "amax", "maximum") for part in top.inputs
    )


def _related(left: Any, right: Any) -> bool:
    """Whether two tensors show the same numbers, perhaps masked."""
    a, b = origin(left), origin(right)
    masks = ("masked_fill", "where", "add", "stack", "cat", "mul")
    sources = [part for node in (a, b) for part in ([node] + (list(node.inputs) if is_node(node, *masks) else []))]
    kinds = {id(origin(part)) for part in sources}
    return a is b or len(kinds) < len(sources)


def ancestors(value: Any, depth: int) -> Iterator[Node]:
    """Iterate over what a tensor was computed from, itself included, the nearest first."""
    level = [value] if isinstance(value, Node) else []
    for _ in range(depth):
        yield from level
        level = [part for node in level for part in node.inputs]


def factors(value: Any) -> Iterator[Any]:
    """Iterate over the factors of a product, constants in a divisor left out."""
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        node, _ = scaled(item)
        if is_node(node, "mul") and depth < MAX_DEPTH:
            pending += [(part, depth + 1) for part in operands(node)]
        else:
            yield node


def is_unit(value: Any) -> bool:
    """Whether these are vectors divided by their norm."""
    node = origin(value)
    if is_node(node, "normalize"):
        return True
    if not is_node(node, "div"):
        return False
    left, right = operands(node)
    return is_norm_of(left, right)


def is_norm_of(vector: Any, value: Any) -> bool:
    """Whether ``value`` is the norm of ``vector``, guarded or not."""
    for _ in range(MAX_DEPTH):
        value = origin(value)
        guarded = plus_constant(value)
        if guarded is not None:
            value = guarded[0]
        elif is_node(value, "clamp", "maximum", "sqrt", "sum", "mean"):
            value = value.inputs[0]
        else:
            break
    if is_node(value, "norm"):
        return same(vector, value.inputs[0])
    return is_node(value, "pow", "square", "mul") and same(vector, value.inputs[0])
