"""The same batch and the same random states twice: is the gradient the same, and if not, which operation differs."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gradwatch.numerics import agreement
from gradwatch.tracing.operations import inputs_in, operation, tensors_in, written
from gradwatch.tracing.source import Place, user_place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradwatch.probes.evaluation import Evaluator

_OVERWRITES = frozenset({"fill", "zero", "copy"})


class Repeated(NamedTuple):
    """How far apart two gradients of the same step are, by parameter and relative to their norm, and why."""

    differences: Mapping[str, float]
    why: str | None = None


def run_twice(evaluator: Evaluator) -> Repeated:
    """Run the step as it trains, twice, and compare the gradients bit by bit."""
    first, second = evaluator.as_trained(), evaluator.as_trained()
    differences: dict[str, float] = {}
    for one, other in zip(first, second, strict=False):
        for name in one.gradients.keys() | other.gradients.keys():
            difference = _difference(one.gradients.get(name), other.gradients.get(name))
            differences[name] = max(differences.get(name, 0.0), difference)
    same = not any(differences.values())
    return Repeated(differences, None if same else first_difference(evaluator))


def _difference(one: Tensor | None, other: Tensor | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    if torch.equal(one.to_dense(), other.to_dense()):
        return 0.0
    error = float(agreement(one, other).error)
    return error if error > 0 else math.inf


class Entry(NamedTuple):
    """One operation of a run: what went in and what came out, as digests."""

    name: str
    place: Place | None
    draws: bool
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]


class OperationLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation of a step with digests of its tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: list[Entry] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation."""
        kwargs = kwargs or {}
        what = operation(func)
        draws = torch.Tag.nondeterministic_seeded in func.tags
        # Of memory that is only written to, nobody knows what it held before.
        overwritten = written(what, args, kwargs) if draws or what.name in _OVERWRITES else []
        read = [t for t in inputs_in(what, args, kwargs) if not any(t is other for other in overwritten)]
        numbers = [value for value in (*args, *kwargs.values()) if isinstance(value, (int, float, complex))]
        inputs = (*_digests(read), repr(numbers).encode())
        result = func(*args, **kwargs)
        if not what.empty:
            self.entries.append(Entry(what.name, user_place(), draws, inputs, _digests(tensors_in(result))))
        return result


def first_difference(evaluator: Evaluator) -> str:
    """Run the step twice more, and say in a sentence where the two runs part."""
    logs = [OperationLog(), OperationLog()]
    for log in logs:
        evaluator.as_trained(log)
    for one, other in zip(logs[0].entries, logs[1].entries, strict=False):
        if one.name != other.name:
            return f"the two runs took different paths: {_at(one)} in one, {_at(other)} in the other"
        if one.inputs != other.inputs:
            return f"{_at(one)} was given other values, which come from outside of PyTorch or of the seeded generators"
        if one.outputs != other.outputs:
            why = "draws from a generator that is not seeded" if one.draws else "is not deterministic"
            return f"{_at(one)} {why}: the same input gave another output"
    return "operation by operation the two runs are alike: a race, or an operation that PyTorch does not see"


def _at(entry: Entry) -> str:
    return entry.name if entry.place is None else f"{entry.name} ({entry.place.file}:{entry.place.line})"


def _digests(tensors: Sequence[Tensor]) -> tuple[bytes, ...]:
    return tuple(map(_digest, tensors))


def _digest(tensor: Tensor) -> bytes:
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        return b""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().flatten()
    return (
        hashlib.blake2b(flat.view(torch.uint8).cpu().numpy().tobytes(), digest_size=8).digest() if flat.numel() else b""
    )
