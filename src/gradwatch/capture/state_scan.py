"""Scans of weights, buffers and optimizer state for values that *became* non-finite.

A mask of -inf is no fault: only a birth is reported, that is, a tensor that was finite when last looked at, or that
has gained non-finite elements since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gradwatch.capture.buffers import buffer_slots
from gradwatch.numerics import l2_norms, nonfinite_counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gradwatch.capture.parameters import ParameterGroup

Kind = Literal["parameter", "buffer", "optimizer"]
Counts = tuple[int, int, int]


class StateTensor(NamedTuple):
    """A tensor that outlives the step; ``name`` is the parameter's, the buffer's, or ``<parameter>.exp_avg``."""

    kind: Kind
    name: str
    tensor: Tensor


class Birth(NamedTuple):
    """A tensor that has become non-finite, with its counts of NaN, +inf and -inf."""

    kind: Kind
    name: str
    counts: Counts


class StateScanner:
    """Remembers which tensors were non-finite when last looked at, and with how many elements."""

    def __init__(self, module: nn.Module, groups: Sequence[ParameterGroup]) -> None:
        self._module = module
        self._groups = groups
        self._seen: dict[tuple[Kind, str], torch.Size] = {}
        self._known: dict[tuple[Kind, str], Counts] = {}

    def baseline(self) -> list[Birth]:
        """Take what is non-finite now as given; return those with NaN or +inf, which no one puts there on purpose."""
        found = self._scan(list(self._tensors()))
        return [birth for birth in found if birth.counts[0] or birth.counts[1]]

    def scan(self, replaced: dict[str, Tensor] | None = None) -> list[Birth]:
        """Return what has become non-finite since the last look; one transfer to the host when all is well.

        Args:
            replaced: buffers to look at instead of the module's own, by name: their values before a bad batch,
                whose own traces in running statistics must not be taken for their cause.
        """
        tensors = [
            entry._replace(tensor=replaced[entry.name])
            if replaced and entry.kind == "buffer" and entry.name in replaced
            else entry
            for entry in self._tensors()
        ]
        return self._scan(tensors)

    def remember(self, other: StateScanner) -> None:
        """Take over what another scanner of the same module has seen."""
        self._seen, self._known = dict(other._seen), dict(other._known)

    def persisting(self, births: Sequence[Birth]) -> list[Birth]:
        """Return the weights known to hold NaN or +inf that are not among ``births``: they spoil every step."""
        named = {birth.name for birth in births}
        return [
            Birth("parameter", name, counts)
            for (kind, name), counts in self._known.items()
            if kind == "parameter" and name not in named and (counts[0] or counts[1])
        ]

    def _tensors(self) -> Iterator[StateTensor]:
        for name, parameter in self._module.named_parameters():
            if not nn.parameter.is_lazy(parameter):
                yield StateTensor("parameter", name, parameter.detach())
        for slot in buffer_slots(self._module):
            if slot.tensor is not None and not nn.parameter.is_lazy(slot.tensor):
                yield StateTensor("buffer", slot.name, slot.tensor)
        for group in self._groups:
            yield from _optimizer_state(group)

    def _scan(self, entries: list[StateTensor]) -> list[Birth]:
        entries = [entry for entry in entries if _can_be_nonfinite(entry.tensor)]
        if not entries:
            return []
        # A finite norm proves finite elements, and costs less than asking each of them.
        finite = l2_norms([entry.tensor for entry in entries]).isfinite().tolist()
        births = [
            birth for entry, good in zip(entries, finite, strict=True) if (birth := self._judge(entry, good=good))
        ]
        self._seen = {(entry.kind, entry.name): entry.tensor.shape for entry in entries}
        return births

    def _judge(self, entry: StateTensor, *, good: bool) -> Birth | None:
        key = (entry.kind, entry.name)
        before = self._known.pop(key, (0, 0, 0))
        nan, posinf, neginf = (0, 0, 0) if good else nonfinite_counts([entry.tensor]).tolist()[0]
        if not (nan or posinf or neginf):
            return None
        counts = (nan, posinf, neginf)
        self._known[key] = counts
        new = self._seen.get(key) != entry.tensor.shape
        if entry.kind == "buffer" and not (nan or posinf) and (new or before[2]):
            return None  # -inf alone, in a new buffer or beside others: a mask, made in a forward or grown
        grown = any(now > then for now, then in zip(counts, before, strict=True))
        return Birth(entry.kind, entry.name, counts) if grown else None


def _optimizer_state(group: ParameterGroup) -> Iterator[StateTensor]:
    for name, parameter in zip(group.names, group.parameters, strict=True):
        state = group.optimizer.state.get(parameter)
        for key, value in (state or {}).items():
            yield from _state_tensors(f"{name}.{key}", value)


def _state_tensors(name: str, value: Any) -> Iterator[StateTensor]:
    if isinstance(value, Tensor):
        yield StateTensor("optimizer", name, value)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _state_tensors(f"{name}[{i}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _state_tensors(f"{name}.{key}", item)


def _can_be_nonfinite(tensor: Tensor) -> bool:
    return (tensor.is_floating_point() or tensor.is_complex()) and tensor.device != torch.device("meta")
