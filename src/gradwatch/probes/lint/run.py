"""One step under the recorder, and what of its findings concerns the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from gradwatch.probes.lint.catalogue import rule_of
from gradwatch.probes.lint.reach import differentiated, reach_of
from gradwatch.probes.lint.recorder import Recorder
from gradwatch.tracing.module_stack import ModuleStack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

    from gradwatch.probes.lint.reach import Reach
    from gradwatch.probes.lint.recorder import Suspicion
    from gradwatch.records import Severity, SourceLine


class Unsafe(NamedTuple):
    """A composition of operations that is not NaN yet and can become so, or loses accuracy.

    Attributes:
        code: which rule, stable and in kebab-case.
        module: dotted path of the module whose forward ran, "" for the root.
        source: the user's line.
        message: what is computed there and why it is unsafe.
        advice: the stable form, as code.
        evidence: plain JSON values: operation, dtype, shape, and the range of the operand in this batch.
        severity: "warning" for what breaks with plausible values, "info" for a loss of accuracy alone.
    """

    code: str
    module: str
    source: SourceLine | None
    message: str
    advice: str
    evidence: dict[str, Any]
    severity: Severity


def lint(module: nn.Module, run: Callable[[], object]) -> list[Unsafe]:
    """Record what ``run()`` computes and return the unsafe compositions in it.

    Args:
        module: the module that is trained; already a side copy, in which everything may be changed.
        run: the step, as ``lambda: module.training_step(batch, 0)``; a backward pass in it is not looked into. What it
            returns (of a mapping, its ``"loss"``) or what it calls ``backward`` on is what training depends on; with
            neither, everything is.

    Returns:
        One finding for each code and source line, in order of execution.

    Raises:
        Exception: whatever ``run`` itself raises.
    """
    modules = ModuleStack(module)
    recorder = Recorder(module, modules)
    with modules, recorder:
        result = run()
    losses = recorder.backpropagated or recorder.nodes_of(_loss_of(result)) or recorder.differentiated
    kept = [node for node in recorder.nodes_of(list(module.buffers())) if node.inputs]
    twice = frozenset(id(node) for node in differentiated(recorder.twice))
    return _findings(recorder.suspicions, reach_of(losses, kept), twice)


def _loss_of(result: object) -> object:
    return result["loss"] if isinstance(result, Mapping) and "loss" in result else result


def _findings(suspicions: Iterable[Suspicion], reach: Reach, twice: frozenset[int]) -> list[Unsafe]:
    relevant = [suspicion for suspicion in suspicions if _concerns(suspicion, reach, twice)]
    replaced = {id(suspicion.found.instead_of) for suspicion in relevant if suspicion.found.instead_of is not None}
    found: dict[tuple[Any, ...], Unsafe] = {}
    for suspicion in relevant:
        call = suspicion.node.call
        place = call.place if call is not None else None
        if id(suspicion.node) not in replaced:
            found.setdefault((suspicion.found.code, *(place or ())[:2]), _unsafe(suspicion))
    return list(found.values())


def _concerns(suspicion: Suspicion, reach: Reach, twice: frozenset[int]) -> bool:
    node, found = suspicion.node, suspicion.found
    if found.twice and id(node) not in twice:
        return False
    if found.derivative:
        return reach.by_derivative(found.instead_of or node)
    mended = node.mended and not node.needs_grad
    return reach.by_value(node) and not mended


def _unsafe(suspicion: Suspicion) -> Unsafe:
    rule = rule_of(suspicion.found.code)
    call = suspicion.node.call
    place = call.place if call is not None else None
    return Unsafe(
        code=rule.code,
        module=suspicion.module,
        source=None if place is None else place.source_line(),
        message=rule.message.format(cause=suspicion.found.cause),
        advice=rule.advice,
        evidence=suspicion.evidence,
        severity=rule.severity,
    )
