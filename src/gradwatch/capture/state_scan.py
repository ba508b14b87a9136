"""Scans of weights, buffers and optimizer state for values that *became* non-finite.

A mask of -inf is no fault: only a birth is reported, that is, a tensor that was finite when last looked at, or that
has gained non-finite elements since.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn.parameter import is_lazy

from gradwatch.capture.host_norms import screening_norms
from gradwatch.numerics import nonfinite_counts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from torch import nn

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
        self._buffers: dict[str, torch.Size] = {}
        self._known: dict[tuple[Kind, str], Counts] = {}
        self._finite: dict[int, int] = {}

    def baseline(self) -> list[Birth]:
        """Take what is non-finite now as given; return those with NaN or +inf, which no one puts there on purpose."""
        return [birth for birth in self.scan() if birth.counts[0] or birth.counts[1]]

    def scan(self, replaced: Mapping[str, Tensor] | None = None) -> list[Birth]:
        """Return what has become non-finite since the last look; one transfer to the host when all is well.

        Args:
            replaced: buffers to look at instead of the module's own, by name: their values before a bad batch,
                whose own traces in running statistics must not be taken for their cause.
        """
        parameters, buffers = self._of_module(replaced or {})
        entries = [*parameters, *buffers, *_optimizer_state(self._groups, finite_scalars=bool(self._known))]
        # A finite norm proves finite elements, and costs less than asking each of them.
        finite = np.isfinite(screening_norms([entry.tensor for entry in entries]))
        births = [] if finite.all() and not self._known else self._judged(entries, finite.tolist())
        self._buffers = {entry.name: entry.tensor.shape for entry in buffers}
        return births

    def found_finite(self, parameters: Sequence[nn.Parameter]) -> None:
        """Take note of weights that were measured elsewhere: the next scan looks at those written to meanwhile alone.

        A write through ``parameter.data`` is not noticed, so this holds for the end of the same batch only.
        """
        self._finite |= {id(p): p._version for p in parameters if not p.is_inference()}  # noqa: SLF001 - no public one

    def forget_finite(self) -> None:
        """Look at all weights in the next scan."""
        self._finite = {}

    def remember(self, other: StateScanner) -> None:
        """Take over what another scanner of the same module has seen."""
        self._buffers, self._known = dict(other._buffers), dict(other._known)

    def persisting(self, births: Sequence[Birth]) -> list[Birth]:
        """Return the weights known to hold NaN or +inf that are not among ``births``: they spoil every step."""
        named = {birth.name for birth in births}
        return [
            Birth("parameter", name, counts)
            for (kind, name), counts in self._known.items()
            if kind == "parameter" and name not in named and (counts[0] or counts[1])
        ]

    def _of_module(self, replaced: Mapping[str, Tensor]) -> tuple[list[StateTensor], list[StateTensor]]:
        """Return the parameters and buffers to look at, each tensor once, by its first name."""
        known_bad = any(kind == "parameter" for kind, _ in self._known)
        finite, self._finite = {} if known_bad else self._finite, {}
        parameters, buffers = [], []
        seen: set[int] = set()
        for prefix, owner in self._module.named_modules():
            dot = f"{prefix}." if prefix else ""
            for key, parameter in owner._parameters.items():  # noqa: SLF001 - one walk for both kinds, at every log step
                if parameter is None or id(parameter) in seen or _is_known(parameter, finite):
                    continue
                seen.add(id(parameter))
                if _can_be_nonfinite(parameter):
                    parameters.append(StateTensor("parameter", f"{dot}{key}", parameter.detach()))
            for key, buffer in owner._buffers.items():  # noqa: SLF001 - as above
                if buffer is None or id(buffer) in seen:
                    continue
                seen.add(id(buffer))
                if _can_be_nonfinite(buffer):
                    buffers.append(StateTensor("buffer", f"{dot}{key}", replaced.get(f"{dot}{key}", buffer)))
        return parameters, buffers

    def _judged(self, entries: Sequence[StateTensor], finite: Sequence[bool]) -> list[Birth]:
        return [birth for entry, good in zip(entries, finite, strict=True) if (birth := self._judge(entry, good=good))]

    def _judge(self, entry: StateTensor, *, good: bool) -> Birth | None:
        key = (entry.kind, entry.name)
        before = self._known.pop(key, (0, 0, 0))
        nan, posinf, neginf = (0, 0, 0) if good else nonfinite_counts([entry.tensor]).tolist()[0]
        if not (nan or posinf or neginf):
            return None
        counts = (nan, posinf, neginf)
        self._known[key] = counts
        new = self._buffers.get(entry.name) != entry.tensor.shape
        if entry.kind == "buffer" and not (nan or posinf) and (new or before[2]):
            return None  # -inf alone, in a new buffer or beside others: a mask, made in a forward or grown
        grown = any(now > then for now, then in zip(counts, before, strict=True))
        return Birth(entry.kind, entry.name, counts) if grown else None


def _is_known(parameter: nn.Parameter, finite: Mapping[int, int]) -> bool:
    return id(parameter) in finite and finite[id(parameter)] == parameter._version  # noqa: SLF001 - no public one


def _optimizer_state(groups: Sequence[ParameterGroup], *, finite_scalars: bool) -> list[StateTensor]:
    """Return the tensors of the optimizers' state.

    ``finite_scalars``: with those that are finite, too: a count of steps for each parameter, on the host.
    """
    entries = []
    for group in groups:
        states = group.optimizer.state
        for name, parameter in zip(group.names, group.parameters, strict=True):
            for key, value in (states.get(parameter) or {}).items():
                if type(value) is Tensor and value.dtype.is_floating_point and not value.is_meta:  # nearly always
                    if finite_scalars or value.ndim or not value.is_cpu or not math.isfinite(value.item()):
                        entries.append(StateTensor("optimizer", f"{name}.{key}", value))
                else:
                    entries += _state_tensors(f"{name}.{key}", value)
    return entries


def _state_tensors(name: str, value: Any) -> Iterator[StateTensor]:
    if isinstance(value, Tensor):
        if _can_be_nonfinite(value):
            yield StateTensor("optimizer", name, value)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _state_tensors(f"{name}[{i}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _state_tensors(f"{name}.{key}", item)


def _can_be_nonfinite(tensor: Tensor) -> bool:
    dtype = tensor.dtype
    return (dtype.is_floating_point or dtype.is_complex) and not tensor.is_meta and not is_lazy(tensor)
