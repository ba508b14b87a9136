"""Tensors in nested objects, modules and optimizers, and copies of them that share memory as the originals do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch.optim import Optimizer

MAX_OBJECTS = 100_000
MAX_ITEMS = 10_000
MAX_DEPTH = 8

# Offsets in a copy stay multiples of this, so that kernels find the alignment that they had.
ALIGNMENT = 64
# Views that lie no further apart are copied in one piece: cuDNN wants the weights of an RNN in one piece.
GAP = 512


def tensors_in(value: object, *, objects: bool = True) -> Iterator[Tensor]:
    """Yield every tensor in nested lists, tuples and mappings, and with ``objects`` in the attributes of objects."""
    level: list[Any] = [value]
    opened: dict[int, object] = {}  # holds them: the id of an object that is gone is given to another
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, Tensor):
                if id(item) not in opened:
                    opened[id(item)] = item
                    yield item
            elif id(item) not in opened and len(opened) < MAX_OBJECTS:
                opened[id(item)] = item
                below += _children(item, objects=objects)
        level = below


def parameters_of(*optimizers: Optimizer) -> list[nn.Parameter]:
    """Return the parameters that optimizers step, group by group."""
    return [parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]]


def weights_of(module: nn.Module, optimizers: Iterable[Optimizer]) -> list[Tensor]:
    """Return the parameters of a module and of the optimizers that step it, once each."""
    return list(dict.fromkeys([*module.parameters(), *parameters_of(*optimizers)]))


def held_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Yield buffers and the tensors in attributes, lists and dictionaries of ``module`` and its submodules."""
    for owner in module.modules():
        for attribute in list(vars(owner).values()):
            # Most of a module's own dictionaries are empty.
            if isinstance(attribute, Tensor) or (isinstance(attribute, (list, tuple, dict)) and attribute):
                yield from tensors_in(attribute, objects=False)


def _children(value: Any, *, objects: bool) -> list[Any]:
    try:
        return [] if isinstance(value, (str, bytes, type)) else list(islice(_items(value, objects=objects), MAX_ITEMS))
    except Exception:  # noqa: BLE001 - what cannot be read must not hide the rest
        return []


def _items(value: Any, *, objects: bool) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if not objects:
        return ()
    if dataclasses.is_dataclass(value):  # with slots it has no dictionary
        return (getattr(value, field.name) for field in dataclasses.fields(value))
    return getattr(value, "__dict__", {}).values()


class Span(NamedTuple):
    """The bytes of a storage that one tensor reaches: from ``start`` up to ``end``."""

    start: int
    end: int
    place: int


def clone_together(tensors: Sequence[Tensor], device: torch.device | None = None) -> list[Tensor]:
    """Return detached copies in order; tensors that overlap in memory have copies that overlap alike.

    Only the memory that the tensors reach is copied: a batch may be a small view of a whole data set. Sizes, strides
    and dtypes are kept, leaf or not; the copies need no gradient.
    """
    copies: list[Tensor | None] = [None] * len(tensors)
    storages: dict[int, list[Span]] = {}
    for index, tensor in enumerate(tensors):
        span = _span(tensor, index)
        if span is None:
            copies[index] = _moved(tensor.detach().clone(), device)
        else:
            storages.setdefault(tensor.untyped_storage()._cdata, []).append(span)  # noqa: SLF001 - its identity
    for spans in storages.values():
        for group in _merged(spans):
            for index, copy in _clone_group(tensors, group, device):
                copies[index] = copy
    return [copy for copy in copies if copy is not None]


def _span(tensor: Tensor, place: int) -> Span | None:
    """Return the memory of ``tensor``, or None for what is no plain view of a storage."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and not tensor.is_nested
    if not plain or tensor.is_quantized or tensor.is_meta or tensor.is_conj() or tensor.is_neg() or not tensor.numel():
        return None
    try:
        if not tensor.data_ptr():
            return None
    except RuntimeError:  # a tensor of a functorch transform has no memory of its own
        return None
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start, item = int(tensor.storage_offset()), tensor.element_size()
    return Span(start * item, (start + int(last) + 1) * item, place)


def _merged(spans: list[Span]) -> Iterator[list[Span]]:
    """Yield groups of spans that overlap or nearly touch."""
    if len(spans) > 1:
        spans.sort()
    group: list[Span] = []
    end = 0
    for span in spans:
        if group and span.start > end + GAP:
            yield group
            group = []
        group.append(span)
        end = max(end, span.end) if len(group) > 1 else span.end
    yield group


def _clone_group(tensors: Sequence[Tensor], group: list[Span], device: torch.device | None) -> list[tuple[int, Tensor]]:
    first = tensors[group[0].place].detach()
    if len(group) == 1 and group[0].end - group[0].start == first.numel() * first.element_size():
        copy = first.clone() if device is None else first.to(device, copy=True)
        return [(group[0].place, copy)]
    start = group[0].start - group[0].start % ALIGNMENT
    size = max(span.end for span in group) - start
    source = torch.empty(0, dtype=torch.uint8, device=first.device)
    source.set_(first.untyped_storage(), start, (size,), (1,))
    storage = torch.empty(size, dtype=torch.uint8, device=device or first.device).copy_(source).untyped_storage()
    copies = []
    for span in group:
        tensor = tensors[span.place]
        offset = (span.start - start) // tensor.element_size()
        copy = torch.empty(0, dtype=tensor.dtype, device=storage.device)
        copies.append((span.place, copy.set_(storage, offset, tensor.shape, tensor.stride())))
    return copies


def _moved(tensor: Tensor, device: torch.device | None) -> Tensor:
    return tensor if device is None else tensor.to(device)
