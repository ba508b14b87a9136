"""A function run under the trace, and what its result is blamed on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gradwatch.diagnosis.memory import Leaf, Memory
from gradwatch.diagnosis.slicing import first_birth
from gradwatch.diagnosis.trace import Record, Tracer
from gradwatch.replica.guard import StepGuard
from gradwatch.tracing.module_stack import ModuleStack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gradwatch.diagnosis.memory import LeafKind
    from gradwatch.diagnosis.slicing import Root


def tracer_of(
    module: nn.Module | None = None,
    known: Mapping[tuple[LeafKind, str], Tensor] | None = None,
    born: frozenset[str] = frozenset(),
) -> tuple[ModuleStack, Tracer]:
    """The trace of a step, not yet entered."""
    modules = ModuleStack(module or nn.Identity())
    return modules, Tracer(modules, Memory(known or {}, born), StepGuard())


def blamed(
    step: Callable[[], Any],
    module: nn.Module | None = None,
    known: Mapping[tuple[LeafKind, str], Tensor] | None = None,
    born: frozenset[str] = frozenset(),
) -> Root | None:
    """What the tensors that ``step`` returns are blamed on."""
    modules, tracer = tracer_of(module, known, born)
    with modules, tracer:
        results = step()
    tensors = [leaf for leaf in pytree.tree_leaves(results) if isinstance(leaf, Tensor)]
    assert tensors
    return first_birth([writer for tensor in tensors for writer in tracer.record_of(tensor)])


def birth(step: Callable[[], Any], module: nn.Module | None = None, **options: Any) -> Record:
    """The operation that the result is blamed on."""
    found = blamed(step, module, **options)
    assert isinstance(found, Record)
    return found


def leaf(step: Callable[[], Any], module: nn.Module | None = None, **options: Any) -> Leaf:
    """The tensor from before the step that the result is blamed on."""
    found = blamed(step, module, **options)
    assert isinstance(found, Leaf)
    return found


def line_of(record: Record) -> str:
    """The text of the line that is named, from behind its last comment mark."""
    assert record.identity.place is not None
    code = record.identity.place.source_line().code
    return code.rpartition("# ")[2]


def zeros(*shape: int) -> Tensor:
    """Zeros that need a gradient, three unless told otherwise."""
    return torch.zeros(*shape or (3,), requires_grad=True)


def backward(loss: Tensor, given: Tensor) -> Tensor:
    """The gradient that a backward pass leaves behind."""
    loss.backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    return given.grad
