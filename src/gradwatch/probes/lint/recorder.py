"""Records the graph of a step while it runs, and lets the checks look at each operation as it happens.

A function mode sees what the Python code calls: ``F.normalize`` is one operation, whatever it is made of, so that the
inside of PyTorch's own functions is never looked at. Tensors are known by their Python objects through weak
references and version counters; the graph keeps none of them alive.
"""

from __future__ import annotations

import logging
import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradwatch.probes.lint.bounds import CONDITION, UNKNOWN, Bounds, words
from gradwatch.probes.lint.calls import is_checkpointed, who_calls
from gradwatch.probes.lint.creation import CONSTANT
from gradwatch.probes.lint.evidence import evidence_of
from gradwatch.probes.lint.names import Name, name_of, normalized
from gradwatch.probes.lint.node import VIEWS, Node
from gradwatch.probes.lint.rules import CHECKS
from gradwatch.probes.lint.rules.losses import CHECKS as LOSSES
from gradwatch.probes.lint.transfer import bounds_after
from gradwatch.tracing.autograd_internals import current_node, storage_key
from gradwatch.tracing.operations import tensors_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from gradwatch.probes.lint.calls import Call
    from gradwatch.probes.lint.rules.found import Found
    from gradwatch.tracing.module_stack import ModuleStack

logger = logging.getLogger(__name__)

MAX_NODES = 100_000
# Afterwards a value that was not finite is gone.
_MENDERS = frozenset({"where", "masked_fill", "nan_to_num", "setitem"})
_EXAMINE = frozenset({"__bool__", "item", "__int__", "__float__", "tolist", "__len__", "numel", "__index__"})
_PASSED_ON = VIEWS | words(
    "gt lt ge le eq ne any all sum count_nonzero isnan isinf isfinite logical_not logical_and __and__ __invert__ "
    "min max amin amax add sub abs norm std var mean nonzero"
)
_EXAMINE_DEPTH = 5


class Suspicion(NamedTuple):
    """What a check has found, with what was at hand at that moment."""

    node: Node
    found: Found
    module: str
    evidence: dict[str, Any]


class _Known(NamedTuple):
    alive: weakref.ref[Tensor]
    node: Node
    version: int


class Recorder(TorchFunctionMode):
    """While entered, records what the code of this thread computes with tensors.

    Args:
        module: its parameters and buffers are known as such.
        modules: follows the running module.

    Attributes:
        suspicions: what the checks have found, in order of execution.
        backpropagated: the tensors that the step has called ``backward`` on.
        differentiated: those that it has given to ``torch.autograd.grad``.
        twice: those of which it keeps the graph of the derivative, to take another one.
        count: how many operations have been recorded.
    """

    def __init__(self, module: nn.Module, modules: ModuleStack) -> None:
        super().__init__()
        self.suspicions: list[Suspicion] = []
        self.backpropagated: list[Node] = []
        self.differentiated: list[Node] = []
        self.twice: list[Node] = []
        self.count = 0
        self._modules = modules
        self._known: dict[int, _Known] = {}
        self._evidence: dict[tuple[str, Call | None], dict[str, Any]] = {}
        self._state = {_memory(tensor): "buffer" for tensor in module.buffers()}
        self._state |= {_memory(tensor): "weight" for tensor in module.parameters()}
        self._state.pop(None, None)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation and record it."""
        kwargs = kwargs or {}
        name = name_of(func)
        if name.ignored or self.count >= MAX_NODES or current_node() is not None:
            return func(*args, **kwargs)
        before = self._before(name, args, kwargs)
        result = func(*args, **kwargs)
        if before is not None:
            try:
                self._after(name, before, tensors_in(*args, *kwargs.values()), result, func)
            except Exception:
                logger.debug("the graph lint could not follow %s", name.op, exc_info=True)
        return result

    def nodes_of(self, value: Any) -> list[Node]:
        """Return the nodes of the tensors in a result of the step."""
        return [self._lookup(tensor) for tensor in tensors_in(value)]

    def _before(self, name: Name, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Node | None:
        """Return the node as far as it is known before the operation writes to anything."""
        try:
            inputs: list[Node] = []
            plain = tuple(self._plain(value, inputs) for value in args)
            named = {key: self._plain(value, inputs) for key, value in kwargs.items()}
            plain, inputs = normalized(name, plain, inputs)
            depends = not inputs if name.op not in CONSTANT else False
            depends = depends or any(node.depends_on_data for node in inputs if name.op not in CONSTANT)
            return Node(self.count, name.op, plain, named, tuple(inputs), depends_on_data=depends)
        except Exception:
            logger.debug("the graph lint could not read the arguments of %s", name.op, exc_info=True)
            return None

    def _after(self, name: Name, node: Node, tensors: list[Tensor], result: Any, func: Any) -> None:
        if name.op == "backward":
            self.backpropagated += node.inputs[:1]
        elif name.op == "grad":
            self.differentiated += node.inputs[:1]
        if name.op in {"backward", "grad"} and node.kwargs.get("create_graph"):
            self.twice += node.inputs[:1]
        outputs = [tensors[0]] if name.op == "setitem" and tensors else tensors_in(result)
        if not outputs:
            if name.op in _EXAMINE:
                _examine(node.inputs, name.op)
            return
        if name.op in _MENDERS:
            for source in node.inputs:
                source.mended = True
        self.count += 1
        node.call = who_calls(func, sys._getframe(2))  # noqa: SLF001 - inspect.stack reads every source file
        node.needs_grad = _needs_grad(outputs[0], node, tensors)
        for position, tensor in enumerate(outputs):
            made = node if position == 0 else _further(node, position)
            made.dtype, made.shape = tensor.dtype, _shape(tensor)
            made.bounds = _bounds(made)
            self._remember(tensor, made)
        self._check(node, [] if name.in_place else tensors)

    def _check(self, node: Node, tensors: list[Tensor]) -> None:
        call = node.call
        if call is None or not (call.own or (call.by_module and node.op in LOSSES)):
            return
        for check in CHECKS.get(node.op, ()):
            try:
                found = check(node)
            except Exception:
                logger.debug("a check of the graph lint failed at %s", node.op, exc_info=True)
                continue
            if found is not None:
                self._suspect(node, found, tensors)
                return

    def _suspect(self, node: Node, found: Found, tensors: list[Tensor]) -> None:
        key = (found.code, node.call)
        if key not in self._evidence:  # once for each line, as it waits for the device
            self._evidence[key] = evidence_of(node, found, dict(zip(map(id, node.inputs), tensors, strict=False)))
        self.suspicions.append(Suspicion(node, found, self._modules.top.path, self._evidence[key]))

    def _plain(self, value: Any, inputs: list[Node]) -> Any:
        """Return an argument with nodes in place of tensors, holding on to nothing else."""
        if isinstance(value, Tensor):
            inputs.append(self._lookup(value))
            return inputs[-1]
        if isinstance(value, (list, tuple)):
            return tuple(self._plain(item, inputs) for item in value)
        if isinstance(value, slice) and value != slice(None):
            return "slice"
        return value if isinstance(value, (int, float, str, torch.dtype)) else None

    def _lookup(self, tensor: Tensor) -> Node:
        known = self._known.get(id(tensor))
        if known is None or known.alive() is not tensor:
            return self._meet(tensor)
        node = known.node
        if known.version != _version(tensor):  # written to through another tensor that shares its memory
            node = Node(self.count, "changed", inputs=(node,), dtype=tensor.dtype, shape=_shape(tensor))
            node.needs_grad = tensor.requires_grad
            self._remember(tensor, node)
        elif tensor.requires_grad and not node.needs_grad:
            node.crosses = True
        return node

    def _meet(self, tensor: Tensor) -> Node:
        """Return a node for a tensor that was there before, or that was made where nobody could see."""
        kind = self._state.get(_memory(tensor), "data")
        node = Node(self.count, kind, dtype=tensor.dtype, shape=_shape(tensor), depends_on_data=kind == "data")
        node.needs_grad, node.unseen = tensor.requires_grad, tensor.grad_fn is not None
        node.bounds = CONDITION if tensor.dtype is torch.bool and kind == "data" else UNKNOWN
        self._remember(tensor, node)
        return node

    def _remember(self, tensor: Tensor, node: Node) -> None:
        key, known = id(tensor), self._known

        def forget(reference: weakref.ref[Tensor]) -> None:
            entry = known.get(key)
            if entry is not None and entry.alive is reference:
                del known[key]

        known[key] = _Known(weakref.ref(tensor, forget), node, _version(tensor))


def _bounds(node: Node) -> Bounds:
    try:
        return bounds_after(node)
    except Exception:
        logger.debug("the graph lint knows no bounds of %s", node.op, exc_info=True)
        return UNKNOWN


def _further(node: Node, position: int) -> Node:
    """Return the node of another result: of ``var_mean`` the second is a mean."""
    op = node.op
    if position == 1:
        op = {"var_mean": "mean", "std_mean": "mean", "aminmax": "amax"}.get(op, op)
    further = Node(node.index, op, node.args, node.kwargs, node.inputs, call=node.call, output=position)
    further.needs_grad, further.depends_on_data = node.needs_grad, node.depends_on_data
    return further


def _needs_grad(output: Tensor, node: Node, tensors: list[Tensor]) -> bool:
    if output.requires_grad or torch.is_grad_enabled():
        return output.requires_grad
    wanted = any(tensor.requires_grad for tensor in tensors) or any(part.needs_grad for part in node.inputs)
    return wanted and is_checkpointed()


def _memory(tensor: Tensor) -> int | None:
    """Return what tells one memory from another, None for a tensor that has none, as one of a lazy module."""
    try:
        return storage_key(tensor)
    except (ValueError, TypeError):
        return None


def _shape(tensor: Tensor) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in tensor.shape)
    except (RuntimeError, TypeError):  # nested tensors have no such shape
        return ()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 - no public one


def _examine(nodes: Sequence[Node], how: str) -> None:
    """Note that Python has looked at a value: what it was computed from is taken for checked."""
    depth = 1 if how in {"__len__", "numel"} else _EXAMINE_DEPTH
    level = list(nodes)
    for _ in range(depth):
        following: list[Node] = []
        for node in level:
            node.examined = True
            if node.op in _PASSED_ON:
                following += node.inputs
        level = following
