"""Where the input of a layer comes from, read from the graph: the activation that made it, and the layer before that.

Only names, links and sizes of autograd nodes are read, never a saved tensor.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.tracing.autograd_internals import node_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

RESHAPING = frozenset({"View", "UnsafeView", "ReshapeAlias"})
IN_ORDER = frozenset({"Alias", "Clone", "ToCopy", "NativeDropout", "Mul", "Div"})
# These hand values on as they are, or some of them, in another order or shape.
HANDING_ON = RESHAPING | {
    "Alias", "AsStrided", "Clone", "Expand", "Flip", "Index", "IndexSelect", "PackPaddedSequence", "Permute", "Roll",
    "Select", "Slice", "Split", "SplitWithSizes", "Squeeze", "T", "ToCopy", "Transpose", "Unbind", "Unsqueeze",
}  # fmt: skip
# A unit that is zero everywhere is zero behind these too, and no other one is.
KEEPING_ZEROS = frozenset({
    "AdaptiveAvgPool", "AdaptiveMaxPool", "Amax", "AvgPool", "ConstantPadNd", "Div", "Max", "MaxPool", "Mean", "Mul",
    "NativeDropout", "Sum", "Upsample",
})  # fmt: skip
# Clamps and hardtanh count as ReLU where they let nothing negative through, which the values tell.
ACTIVATIONS = {
    "Relu": "relu",
    "Hardtanh": "relu",
    "Clamp": "relu",
    "ClampMin": "relu",
    "Threshold": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}
MAX_STEPS = 16
MAX_NODES = 64


class Layer(NamedTuple):
    """A layer with weights; ``channels_first``: its units are dimension 1 of its output, else the last."""

    name: str
    channels_first: bool = False


class Owners(NamedTuple):
    """What the walk may end at.

    ``outputs`` maps sequence numbers of nodes to the layers that returned their tensors, ``weighted`` ids of
    parameters to layers with a weight matrix or kernel, ``others`` those of the rest, norms above all.
    """

    outputs: Mapping[int, Layer]
    weighted: Mapping[int, Layer]
    others: Mapping[int, Layer]


class Origin(NamedTuple):
    """The activation behind a tensor. ``exact``: nothing but views and casts stand between the two.

    ``shape`` is that of the tensor before it was flattened, None where it was not.
    """

    activation: str
    exact: bool
    source: Layer | None
    shape: tuple[int, ...] | None


def origin_of(tensor: Tensor, owners: Owners) -> Origin | None:
    """Return the activation whose output ``tensor`` is, through views, casts, dropout and pooling; None if none is."""
    node, exact, ordered = tensor.grad_fn, True, True
    shape: tuple[int, ...] | None = None
    for _ in range(MAX_STEPS):
        if node is None:
            return None
        kind = _kind(node)
        if kind in ACTIVATIONS:
            return Origin(ACTIVATIONS[kind], exact, source_of(node, owners), shape)
        if kind == "Stack":
            node = _same_activation(node)
            ordered = False
            continue
        if kind in HANDING_ON:
            if kind in RESHAPING and ordered and shape is None:
                shape = _sizes_before(node, tensor)
            ordered = ordered and (kind in RESHAPING or kind in IN_ORDER)
        elif kind.rstrip("123D").removesuffix("WithIndices").rstrip("123D") in KEEPING_ZEROS or _upsamples(kind):
            exact = exact and "Max" in kind  # the largest of some values is one of them
            ordered = ordered and kind in IN_ORDER
        else:
            return None
        node = _only_parent(node)
    return None


def source_of(node: Any, owners: Owners) -> Layer | None:
    """Return the layer nearest behind a node: one with weights, or the norm if nothing but a norm is there."""
    waiting, seen, norm = deque(_parents(node)), set(), None
    for _ in range(MAX_NODES):
        if not waiting:
            break
        parent = waiting.popleft()
        if parent in seen:
            continue
        seen.add(parent)
        number = node_number(parent)
        leaf = getattr(parent, "variable", None) if _is_leaf(parent) else None
        layer = owners.weighted.get(id(leaf)) if leaf is not None else owners.outputs.get(number or -1)
        if layer is not None:
            return layer
        norm = norm or owners.others.get(id(leaf))
        waiting.extend(_parents(parent))
    return norm


def _kind(node: Any) -> str:
    return str(node.name()).rpartition("Backward")[0]


def _is_leaf(node: Any) -> bool:
    return str(node.name()).endswith("AccumulateGrad")


def _upsamples(kind: str) -> bool:
    return kind.startswith("Upsample")


def _parents(node: Any) -> list[Any]:
    return [parent for parent, _ in node.next_functions if parent is not None]


def _only_parent(node: Any) -> Any:
    parents = _parents(node)
    return parents[0] if len(parents) == 1 else None


def _same_activation(node: Any) -> Any:
    """Return a parent of a stack whose parents are all the same activation: the steps of a recurrent layer."""
    parents = _parents(node)
    if not parents or _kind(parents[0]) not in ACTIVATIONS:
        return None
    # First and last stand for all: there may be thousands.
    return parents[-1] if _kind(parents[0]) == _kind(parents[-1]) else None


def _sizes_before(node: Any, tensor: Tensor) -> tuple[int, ...] | None:
    sizes = getattr(node, "_saved_self_sym_sizes", None)
    if sizes is None or tensor.dim() != 2 or len(sizes) < 3:  # noqa: PLR2004 - flattened behind the batch
        return None
    before = tuple(int(size) for size in sizes)
    same = before[0] == tensor.shape[0]
    for size in before[1:]:
        same = same and size > 0
    return before if same and _product(before) == tensor.numel() else None


def _product(sizes: tuple[int, ...]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product
