"""What the graph of a loss says of it: whether it can be negative, and whether its targets are ones it is made for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradwatch.capture.host_values import host_values
from gradwatch.observations import LossFacts
from gradwatch.tracing.function_mode import unseen

if TYPE_CHECKING:
    from collections.abc import Callable

# Operations whose result is at least 0, the last four given what is in their domain.
NONNEGATIVE = {
    "MseLoss": "mse_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss",
    "SoftMarginLoss": "soft_margin_loss",
    "MultiMarginLoss": "multi_margin_loss",
    "MultilabelMarginLoss": "multilabel_margin_loss",
    "Abs": "abs",
    "Pow": "square",
    "NllLoss": "nll_loss",
    "NllLoss2D": "nll_loss",
    "BinaryCrossEntropy": "binary_cross_entropy",
    "BinaryCrossEntropyWithLogits": "binary_cross_entropy_with_logits",
}
# What is at least 0 everywhere stays so behind these.
KEEPING_SIGN = frozenset({
    "Alias", "Cat", "Clone", "Index", "MaskedSelect", "Mean", "Permute", "Select", "Slice", "Squeeze", "Stack", "Sum",
    "ToCopy", "Transpose", "UnsafeView", "Unsqueeze", "View",
})  # fmt: skip
LINEAR = KEEPING_SIGN | {"Add", "Sub", "Rsub", "Neg", "Mul", "Div"}
SQUARE = 2
MAX_NODES = 64
# Rounding of targets that were mixed or smoothed, of log-probabilities that came from log(p + eps).
TARGET_SLACK, LOG_SLACK = 1e-4, 1e-2


@dataclass(slots=True)
class _Facts:
    """What the walk has found: domains to look at, and factors that must not be negative, one transfer for all."""

    domains: list[tuple[str, Tensor]] = field(default_factory=list)
    factors: list[Tensor] = field(default_factory=list)
    nodes: int = 0


def loss_facts(loss: Tensor) -> LossFacts:
    """Return what is certain of a loss; nothing where its graph is not understood. Call it before ``backward``.

    Saved tensors are read where the user's hooks do not pack them, so that no hook runs a second time. Waits for the
    device once if there is a target or factor to read.
    """
    try:
        with torch.no_grad(), unseen():
            facts = _Facts()
            function = _nonnegative(loss.grad_fn, facts)
            return _told(function, facts)
    except Exception:  # noqa: BLE001 - private names may go, saved tensors may have been freed
        return LossFacts()


def _nonnegative(node: Any, facts: _Facts) -> str | None:
    """Return the function that makes a node's result at least 0 for sure, and collect domains on the way."""
    facts.nodes += 1
    if node is None or facts.nodes > MAX_NODES:
        return None
    kind = _kind(node)
    if kind == "Div" and _is_soft_cross_entropy(node, facts):
        return "cross_entropy"
    if kind in NONNEGATIVE and not (kind == "Pow" and getattr(node, "_saved_exponent", None) != SQUARE):
        return _function(node, kind, facts)
    if kind not in LINEAR:
        return None
    # All branches are walked, whatever comes of the first: domains are looked at in a sum that may be negative too.
    parents = [parent for parent, _ in node.next_functions]
    functions = [_nonnegative(parent, facts) for parent in parents if parent is not None]
    qualifies = bool(functions) and all(functions) and _keeps_sign(node, kind, parents, facts)
    return functions[0] if qualifies else None


def _is_soft_cross_entropy(node: Any, facts: _Facts) -> bool:
    """Whether the loss is what ``cross_entropy`` makes of soft labels: -sum(log_softmax(x) · labels) / rows.

    A policy gradient is written alike, with the advantage of one action a row in the place of the labels.
    """
    total = _chain(node, "Neg", "Sum")
    product = None if total is None else total.next_functions[0][0]
    if product is None or _kind(product) != "Mul" or _chain(product, "LogSoftmax") is None:
        return False
    labels, rows = _saved(product, "other"), _saved(node, "other")
    if not isinstance(labels, Tensor) or labels.ndim < SQUARE or getattr(total, "_saved_dim", None) is not None:
        return False
    if rows != labels.numel() // max(labels.shape[1], 1) or not bool(((labels != 0).sum(1) > 1).any()):
        return False
    facts.domains.append(("cross_entropy", labels))
    return True


def _chain(node: Any, *kinds: str) -> Any:
    """Return the last of the nodes behind ``node`` by first parents, None where one is of another kind."""
    for kind in kinds:
        node = node.next_functions[0][0]
        if node is None or _kind(node) != kind:
            return None
    return node


def _kind(node: Any) -> str:
    return str(node.name()).rpartition("Backward")[0]


def _function(node: Any, kind: str, facts: _Facts) -> str:
    if kind.startswith("Binary"):
        _add(facts.domains, lambda target: (NONNEGATIVE[kind], target), _saved(node, "target"))
    elif kind.startswith("Nll"):
        before = node.next_functions[0][0]
        if before is not None and _kind(before) == "LogSoftmax":
            return "cross_entropy"
        _add(facts.domains, lambda scores: ("nll_loss", scores), _saved(node, "self"))
    elif kind == "Abs" and any(_kind(parent) == "Sub" for parent, _ in node.next_functions if parent is not None):
        return "l1_loss"
    return NONNEGATIVE[kind]


def _keeps_sign(node: Any, kind: str, parents: list[Any], facts: _Facts) -> bool:
    if kind in KEEPING_SIGN:
        return all(parent is not None for parent in parents) or kind not in {"Cat", "Stack"}
    if kind == "Add":
        # A constant that is added is not kept in the graph.
        return len(parents) > 1 and None not in parents and getattr(node, "_saved_alpha", 1) > 0
    if kind not in {"Mul", "Div"} or sum(parent is not None for parent in parents) != 1:
        return False
    return _factor_keeps_sign(node, parents, facts)


def _factor_keeps_sign(node: Any, parents: list[Any], facts: _Facts) -> bool:
    """Whether the constant of a product is at least 0; one on a device is put down to be asked with all others."""
    if len(parents) > 1 and parents[0] is None and _kind(node) == "Div":
        return False  # a constant by a loss
    constant = _saved(node, "other" if parents[0] is not None else "self")
    if isinstance(constant, Tensor):
        facts.factors.append(constant.amin())
        return True
    return isinstance(constant, (int, float)) and constant >= 0


def _saved(node: Any, name: str) -> Any:
    """Return what a node has saved, None if a hook of the user would have to unpack it."""
    raw = getattr(node, f"_raw_saved_{name}", None)
    if raw is not None and getattr(raw, "unpack_hook", None) is not None:
        return None
    return getattr(node, f"_saved_{name}", None)


def _add(domains: list[tuple[str, Tensor]], entry: Callable[[Tensor], tuple[str, Tensor]], saved: Any) -> None:
    if isinstance(saved, Tensor) and saved.is_floating_point() and saved.numel():
        domains.append(entry(saved))


def _told(function: str | None, facts: _Facts) -> LossFacts:
    ends = [end for _, tensor in facts.domains for end in torch.aminmax(tensor)]
    values = host_values([*ends, *facts.factors])
    if any(not factor >= 0 for factor in values[len(ends) :]):
        function = None
    for i, (name, _) in enumerate(facts.domains):
        low, high = values[2 * i : 2 * i + 2]
        outside = _outside(name, low, high)
        if outside is not None:
            return LossFacts(function=function, outside=outside, low=low, high=high)
    # A domain that was looked at and holds is told by the name of its function.
    return LossFacts(function=function)


def _outside(name: str, low: float, high: float) -> str | None:
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    if name == "nll_loss":
        return "nll_loss is given positive log-probabilities" if high > LOG_SLACK else None
    if name == "cross_entropy":  # class weights may be above 1
        return "cross_entropy is given targets below 0" if low < -TARGET_SLACK else None
    return f"{name} is given targets outside of 0 to 1" if low < -TARGET_SLACK or high > 1 + TARGET_SLACK else None
