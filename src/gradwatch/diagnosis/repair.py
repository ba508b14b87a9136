"""Doing without: a step runs again with some births or samples made harmless, to see which of them matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gradwatch.diagnosis.memory import Leaf, can_be_nonfinite
from gradwatch.replica.guard import GuardMode
from gradwatch.tracing.operations import tensors_in, written

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from gradwatch.diagnosis.slicing import Root
    from gradwatch.replica.guard import StepGuard
    from gradwatch.tracing.operations import Operation


class Repair(NamedTuple):
    """What is made finite: results of operations, by number; tensors from before the step, by name; samples.

    ``is_harmless``: the step is known to do nothing that a guard must watch.
    """

    operations: frozenset[int] = frozenset()
    leaves: frozenset[str] = frozenset()
    samples: frozenset[int] = frozenset()
    is_harmless: bool = False


class RepairMode(GuardMode):  # type: ignore[no-untyped-call]
    """While entered, replaces NaN and infinities in the results of some operations by 0."""

    def __init__(self, guard: StepGuard, operations: frozenset[int]) -> None:
        super().__init__(guard)
        self._wanted = operations

    def run(self, func: Any, what: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one operation, and repair its results if they are among the wanted."""
        result = func(*args, **kwargs)
        if self.operations in self._wanted:
            make_finite(tensors_in(result) + written(what, args, kwargs))
        return result


def make_finite(tensors: Iterable[Tensor]) -> None:
    """Replace NaN and infinities by 0, in place."""
    with torch.no_grad():
        for tensor in tensors:
            if can_be_nonfinite(tensor) and tensor.layout is torch.strided:
                tensor.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


def replace_samples(tensors: Iterable[Tensor], samples: frozenset[int], size: int) -> None:
    """Overwrite samples by one that is not among them, in every tensor whose first dimension is the batch's."""
    donor = next(index for index in range(size) if index not in samples)
    with torch.no_grad():
        for tensor in tensors:
            if tensor.dim() and tensor.shape[0] == size and tensor.layout is torch.strided:
                for sample in samples:
                    tensor[sample] = tensor[donor]


def suspects(births: Sequence[Root]) -> list[list[Root]]:
    """Return the births by operation and line, in order: those of one line are one suspect."""
    groups: dict[Any, list[Root]] = {}
    for birth in births:
        key = birth.name if isinstance(birth, Leaf) else (birth.identity.op, birth.identity.place)
        groups.setdefault(key, []).append(birth)
    return list(groups.values())


def without(groups: Iterable[Sequence[Root]]) -> Repair:
    """Return the repair of all births of some suspects."""
    births = [birth for group in groups for birth in group]
    return Repair(
        frozenset(birth.index for birth in births if not isinstance(birth, Leaf)),
        frozenset(birth.name for birth in births if isinstance(birth, Leaf) and birth.name is not None),
    )
