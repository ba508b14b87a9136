"""Who has written the non-finite numbers that a tensor holds: the memory of a trace, one entry a storage."""

from __future__ import annotations

import cmath
import math
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import KeyedRef

import torch

from gradwatch.diagnosis.responsibility import Explanation
from gradwatch.diagnosis.summary import any_true, bad_rows, first_bad_index, summary_of
from gradwatch.numerics import nonfinite_counts
from gradwatch.tracing.autograd_internals import dense, storage_key, storage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor

    from gradwatch.diagnosis.trace import Record
    from gradwatch.records import TensorSummary

LeafKind = Literal["parameter", "buffer", "batch", "unknown"]


class Special(NamedTuple):
    """Which kinds of non-finite numbers a tensor holds."""

    nan: bool = False
    posinf: bool = False
    neginf: bool = False

    def __bool__(self) -> bool:
        return self.nan or self.posinf or self.neginf


FINITE = Special()


@dataclass(slots=True, eq=False)
class Leaf:
    """A tensor that was non-finite before the step. ``context``: infinities that look deliberate, as a mask's do."""

    kind: LeafKind
    name: str | None
    special: Special
    context: bool
    summary: TensorSummary
    bad_index: list[int] | None
    bad_rows: list[int]


class Read(NamedTuple):
    """An input of an operation.

    ``before`` holds its values from before, if the operation overwrites it. ``from_weights``: it depends on parameters.
    """

    tensor: Tensor
    before: Tensor
    special: Special
    writers: list[Record | Leaf]
    made_by: str
    from_weights: bool = False

    @property
    def is_number(self) -> bool:
        """Whether this is a plain number that the user has written, which PyTorch has wrapped into a tensor."""
        for writer in self.writers:  # asked for every input: a generator would cost more
            if isinstance(writer, Leaf) and writer.kind == "unknown" and not writer.summary.shape:
                return True
        return False


class _Written(NamedTuple):
    begin: int
    end: int
    writer: Record | Leaf


@dataclass(slots=True)
class _Entry:
    storage: KeyedRef[int, torch.UntypedStorage]  # not the storage itself: a step must not need more memory
    made_by: str = ""
    from_weights: bool = False
    bad: list[_Written] = field(default_factory=list)
    reserved_by: Record | None = None  # uninitialised so far
    looked: dict[Any, Special] = field(default_factory=dict)  # at which parts since the last write


class Memory:
    """Entries of storages; a storage never seen before existed before the step.

    An entry ends with its storage, whose place may be given to another.

    Args:
        known: tensors from before the step by kind and name.
        born: names of those that were finite once: an infinity in them is no mask.

    Attributes:
        bad_weights: the non-finite parameters that the step has used so far.
    """

    def __init__(self, known: Mapping[tuple[LeafKind, str], Tensor], born: frozenset[str] = frozenset()) -> None:
        self._born = born
        self._known: dict[int, tuple[LeafKind, str, Tensor]] = {}
        for (kind, name), tensor in known.items():
            key = storage_key(tensor)
            if key is not None:
                self._known.setdefault(key, (kind, name, tensor))
        self._entries: dict[int, _Entry] = {}
        self._forget = _forgetter(self)
        self.bad_weights: list[Leaf] = []

    def read(self, tensors: Iterable[Tensor], *, keep: bool = False) -> list[Read]:
        """Return what is known of the inputs of an operation; ``keep`` a copy if it may overwrite them."""
        return [self._read(tensor, keep=keep) for tensor in tensors]

    def write(
        self,
        tensor: Tensor,
        writer: Record | None,
        made_by: str,
        *,
        from_weights: bool,
        special: Special | None = None,
    ) -> None:
        """Note that an operation has written ``tensor``; ``writer`` is its record if the result is not finite.

        ``special``: what the tensor holds now, where somebody has looked.
        """
        storage = storage_of(tensor)
        if storage is None:
            return
        entry = self._entries.get(id(storage))
        if entry is None:
            entry = self._enter(storage)
        entry.made_by, entry.from_weights, entry.reserved_by = made_by, entry.from_weights or from_weights, None
        if entry.bad or writer is not None:
            begin, end = span(tensor)
            entry.bad = [old for old in entry.bad if old.begin < begin or old.end > end]
            entry.bad += [] if writer is None else [_Written(begin, end, writer)]
            entry.looked = {} if special is None else {_part(tensor): special}

    def reserve(self, tensors: Sequence[Tensor], record: Record) -> None:
        """Note memory that nothing has been written to yet."""
        for tensor in tensors:
            storage = storage_of(tensor)
            if storage is not None:
                entry = self._enter(storage)
                entry.made_by, entry.reserved_by = record.identity.op, record

    def _enter(self, storage: torch.UntypedStorage) -> _Entry:
        entry = self._entries[id(storage)] = _Entry(KeyedRef(storage, self._forget, id(storage)))
        return entry

    def _read(self, tensor: Tensor, *, keep: bool) -> Read:
        if _has_no_memory(tensor):
            tensor = torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        before = tensor.detach().clone() if keep else tensor
        if not can_be_nonfinite(tensor):
            return Read(tensor, before, FINITE, [], "")
        storage = storage_of(tensor)
        if storage is None:
            return Read(tensor, before, special_of(tensor), [], "")
        entry = self._entries.get(id(storage))
        if entry is None:
            entry = self._meet(tensor, storage)
        elif entry.reserved_by is not None:
            _admit_garbage(entry, tensor)
        if not entry.bad:
            return Read(tensor, before, FINITE, [], entry.made_by, entry.from_weights)
        part = _part(tensor)
        special = entry.looked.get(part)
        if special is None:
            special = entry.looked[part] = special_of(tensor)
        begin, end = span(tensor)
        writers = [old.writer for old in entry.bad if old.begin < end and begin < old.end] if special else []
        return Read(tensor, before, special, writers, entry.made_by, entry.from_weights)

    def _meet(self, tensor: Tensor, storage: torch.UntypedStorage) -> _Entry:
        """Look once at a tensor from before the step, all of its storage."""
        entry = self._enter(storage)
        unknown: tuple[LeafKind, str | None, Tensor] = ("unknown", None, tensor)
        kind, name, known = self._known.get(id(storage), unknown)
        whole = _whole_storage(known)
        special = special_of(whole)
        entry.from_weights = kind == "parameter"
        if special:
            kept = name in self._born or known.requires_grad  # nobody trains a mask
            # A batch that is nothing but infinities is no mask.
            deliberate = not kept and (is_mask(whole) if kind == "batch" else looks_deliberate(whole))
            leaf = Leaf(kind, name, special, deliberate, summary_of(known), *_where(known))
            entry.bad.append(_Written(0, 1 << 62, leaf))
            if kind == "parameter" and not deliberate:
                self.bad_weights.append(leaf)
        return entry


def _forgetter(memory: Memory) -> Callable[[KeyedRef[int, torch.UntypedStorage]], None]:
    """Return what drops the entry of a storage that is gone; without a cycle through the memory."""
    reference = weakref.ref(memory)

    def forget(gone: KeyedRef[int, torch.UntypedStorage]) -> None:
        alive = reference()
        if alive is not None:
            alive._entries.pop(gone.key, None)  # noqa: SLF001 - its own

    return forget


def special_of(tensor: Tensor) -> Special:
    """Return which non-finite numbers ``tensor`` holds; one reduction if there are none."""
    if not can_be_nonfinite(tensor):
        return FINITE
    tensor = dense(tensor.detach() if tensor.requires_grad else tensor)
    if not tensor.numel() or cmath.isfinite(_total(tensor)):
        return FINITE
    if tensor.is_complex() or tensor.element_size() == 1:
        return Special(*(count > 0 for count in nonfinite_counts([tensor])[0].tolist()))
    # Extremes carry NaN on, and take a tenth of the time of a comparison with all elements.
    nan = math.isnan(tensor.amax())
    others = tensor.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf) if nan else tensor
    return Special(nan, float(others.amax()) == math.inf, float(others.amin()) == -math.inf)


def can_be_nonfinite(tensor: Tensor) -> bool:
    """Whether the dtype has NaN or infinities, and the tensor has values."""
    return (tensor.is_floating_point() or tensor.is_complex()) and not (tensor.is_meta or _has_no_memory(tensor))


def _has_no_memory(tensor: Tensor) -> bool:
    """Whether these are the zeros of forward-mode differentiation: to look into them ends the process."""
    return bool(tensor._is_zerotensor())  # noqa: SLF001 - it has no public name


def _part(tensor: Tensor) -> Any:
    """Return what tells one part of a storage from another."""
    values = dense(tensor)
    return values.storage_offset(), values.shape, values.stride()


def span(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte of the storage that the tensor covers, and the one behind its last."""
    tensor = dense(tensor)
    size = tensor.element_size()
    begin = int(tensor.storage_offset()) * size
    if tensor.is_contiguous():
        return begin, begin + tensor.numel() * size
    reach = sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.stride(), strict=True) if extent)
    return begin, begin + (reach + 1) * size


def holds_nan(tensor: Tensor) -> bool:
    """Whether NaN is among the elements; one sum if not, infinities of one sign or none."""
    tensor = dense(tensor.detach())
    return can_be_nonfinite(tensor) and cmath.isnan(_total(tensor)) and special_of(tensor).nan


def _total(tensor: Tensor) -> complex:
    """Return the sum: a finite one proves all elements finite, as it keeps NaN and infinities, and costs little."""
    try:
        total = tensor.sum(dtype=torch.float32) if tensor.element_size() < 4 else tensor.sum()  # noqa: PLR2004 - bytes
        return complex(total.item())
    except (RuntimeError, NotImplementedError):  # 8-bit floats have no sum
        return complex("nan")


def _whole_storage(tensor: Tensor) -> Tensor:
    tensor = dense(tensor.detach())
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    if size == tensor.numel():
        return tensor
    try:
        return tensor.as_strided((size,), (1,), 0)
    except RuntimeError:
        return tensor


def looks_deliberate(tensor: Tensor) -> bool:
    """Whether a tensor from before the step may be a mask, or a constant that is nothing but an infinity."""
    tensor = dense(tensor.detach())
    return is_mask(tensor) or not any_true(tensor.isnan() | tensor.isfinite())


def is_mask(tensor: Tensor) -> bool:
    """Whether the tensor holds -inf and, besides, one number only."""
    tensor = dense(tensor.detach())
    if tensor.element_size() == 1:  # 8-bit floats have no extremes
        tensor = tensor.float()
    if tensor.is_complex() or not tensor.numel() or not math.isfinite(highest := float(tensor.amax())):
        return False  # an extreme carries NaN on
    return float(tensor.nan_to_num(neginf=torch.inf).amin()) == highest


def _where(tensor: Tensor) -> tuple[list[int] | None, list[int]]:
    tensor = dense(tensor.detach())
    return first_bad_index(tensor), bad_rows(tensor)


def _admit_garbage(entry: _Entry, tensor: Tensor) -> None:
    """Uninitialised memory is being used: its own operation is to blame if there is something bad in it."""
    special = special_of(tensor)
    record, entry.reserved_by = entry.reserved_by, None
    if special and record is not None:
        record.special, record.output = special, summary_of(tensor)
        record.of_nan = Explanation(transition="finite->nan") if special.nan else None
        record.of_infinity = Explanation(transition="finite->inf") if special.posinf or special.neginf else None
        record.bad_index = first_bad_index(dense(tensor))
        entry.bad.append(_Written(*span(tensor), record))
