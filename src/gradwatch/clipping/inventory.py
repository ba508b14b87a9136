"""A model as the recognisers see it: modules, their class names, their children and the names of their parameters.

The survey reads names, types and ``requires_grad``; it touches no parameter value and runs no forward pass, so lazy,
quantized and meta-device modules are as good as any. It imports no torch either: torch's classes are known by module.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import nn

# What torch, Lightning and FSDP call the model inside their wrapper.
_WRAPPED = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module"})
_NOTHING: Mapping[str, Node] = {}
_Children = list[tuple[str, "nn.Module"]]


class _Classes(NamedTuple):
    """Class names along the MRO below ``nn.Module``: all in order, as a set, and those of torch's own classes."""

    ordered: tuple[str, ...]
    every: frozenset[str]
    from_torch: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One module. ``kinds`` are the class names that count as evidence, ``torch_kinds`` those that torch defines.

    ``parameters`` are the names of its own parameters (a parametrized one included), ``trained`` tells whether it or
    a module below it has a parameter that requires a gradient, ``size`` counts the modules of its subtree.
    """

    module: nn.Module
    name: str
    kinds: frozenset[str]
    torch_kinds: frozenset[str]
    children: Mapping[str, Node]
    parameters: tuple[str, ...]
    trained: bool
    size: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """The ``nodes`` that decide, the attention modules among them, and ``context``: every node, frozen ones too."""

    nodes: tuple[Node, ...]
    attention: tuple[Node, ...]
    context: tuple[Node, ...]


def survey(model: nn.Module) -> tuple[Node, ...]:
    """Every distinct module of a model as a node, children before their parents.

    Written without recursion: a module may be registered under itself.
    """
    done: dict[int, Node] = {}
    known: dict[type, _Classes] = {}
    unnamed = _users_own(model)
    opened = {id(model)}
    stack = [_open(model)]
    while stack:
        module, children, waiting = stack[-1]
        child = next((child for _, child in waiting if id(child) not in opened), None)
        if child is not None:
            opened.add(id(child))
            stack.append(_open(child))
        else:
            done[id(module)] = _node(module, children, done, _classes(module, known), named=id(module) not in unnamed)
            stack.pop()
    return tuple(done.values())


def _open(module: nn.Module) -> tuple[nn.Module, _Children, Iterator[tuple[str, nn.Module]]]:
    children = list(module.named_children())
    return module, children, iter(children)


def _node(
    module: nn.Module,
    named_children: _Children,
    done: Mapping[int, Node],
    classes: _Classes,
    *,
    named: bool,
) -> Node:
    children = {name: done[id(child)] for name, child in named_children if id(child) in done} or _NOTHING
    own = tuple(module.named_parameters(recurse=False))
    parametrized = children["parametrizations"].children if "parametrizations" in children else _NOTHING
    trusted = named and "LightningModule" not in classes.every
    return Node(
        module=module,
        # Parametrization swaps in a subclass; the class that the user wrote is the next one.
        name=classes.ordered[1 if parametrized and len(classes.ordered) > 1 else 0],
        kinds=classes.every if trusted else classes.from_torch,
        torch_kinds=classes.from_torch,
        children=children,
        parameters=(*(name for name, _ in own), *parametrized),
        trained=any(p.requires_grad for _, p in own) or any(child.trained for child in children.values()),
        size=1 + sum(child.size for child in children.values()),
    )


def _classes(module: nn.Module, known: dict[type, _Classes]) -> _Classes:
    cls = type(module)
    # TorchScript gives every module the same class and keeps the name of the one that it replaced.
    if cls.__module__.startswith("torch.jit"):
        return _class_names(cls, script=getattr(module, "original_name", None))
    if cls not in known:
        known[cls] = _class_names(cls, script=None)
    return known[cls]


def _class_names(cls: type, script: str | None) -> _Classes:
    classes = [base for base in cls.__mro__ if base is not object and base.__name__ != "Module"]
    ordered = (*([script] if script else []), *(base.__name__ for base in classes)) or ("Module",)
    from_torch = [base.__name__ for base in classes if base.__module__.partition(".")[0] == "torch"]
    return _Classes(ordered, frozenset(ordered), frozenset([*from_torch, script] if script else from_torch))


def _users_own(model: nn.Module) -> set[int]:
    """The root and, where it is only a wrapper, what it wraps: what a user calls these says nothing."""
    found = {id(model)}
    children = dict(model.named_children())
    while len(children) == 1 and _WRAPPED.issuperset(children):
        (model,) = children.values()
        if id(model) in found:
            break
        found.add(id(model))
        children = dict(model.named_children())
    return found


def below(node: Node) -> Iterator[Node]:
    """The node and everything under it, each once."""
    if not node.children:
        yield node
        return
    seen: set[Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current not in seen:
            seen.add(current)
            yield current
            stack.extend(current.children.values())


@lru_cache(maxsize=1 << 14)
def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(pattern, name) is not None


@lru_cache(maxsize=1 << 14)
def _any_matches(pattern: str, kinds: frozenset[str]) -> bool:
    return any(re.fullmatch(pattern, kind) for kind in kinds)


def of_kind(nodes: Iterable[Node], pattern: str) -> list[Node]:
    """The nodes with a class name, along the MRO, that the whole pattern matches."""
    return [node for node in nodes if _any_matches(pattern, node.kinds)]


def with_child(nodes: Iterable[Node], pattern: str) -> list[tuple[Node, Node]]:
    """Pairs of a parent and its child, for every child whose attribute name the whole pattern matches."""
    parents = (node for node in nodes if node.children)
    return [(node, child) for node in parents for name, child in node.children.items() if _matches(pattern, name)]


def tally(nodes: Iterable[Node]) -> str:
    """Counts by class name, most frequent first: "12 BertSelfAttention modules"."""
    counts = Counter(node.name for node in nodes).most_common()
    shown = [f"{count} {name}" for name, count in counts[:2]]
    rest = sum(count for _, count in counts[2:])
    listed = [*shown, f"{rest} other"] if rest else shown
    plural = "module" if sum(count for _, count in counts) == 1 else "modules"
    return f"{' and '.join(listed)} {plural}" if counts else "no modules"
