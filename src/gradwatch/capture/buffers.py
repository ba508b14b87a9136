"""Copies of the buffers that a step may change, so that a dropped step leaves none of its traces in them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

# Below this, keeping a copy is cheaper than finding out whether one is needed.
SMALL_BYTES = 4096
SMALL_TOTAL_BYTES = 512 * 1024


class Slot(NamedTuple):
    """Where a buffer lives. Looked up anew each time: a module may assign another tensor to the name."""

    name: str
    module: nn.Module
    key: str

    @property
    def tensor(self) -> Tensor | None:
        """The buffer of now, or None when the module has given it up."""
        return self.module._buffers.get(self.key)  # noqa: SLF001 - nn.Module has no public getter that keeps identity


def buffer_slots(module: nn.Module) -> list[Slot]:
    """Return every registered buffer of ``module`` once, by its first name; lazy ones have no values yet."""
    seen: set[int] = set()
    slots = []
    for prefix, owner in module.named_modules():
        for key, tensor in owner._buffers.items():  # noqa: SLF001 - as above
            if tensor is not None and not is_lazy(tensor) and id(tensor) not in seen:
                seen.add(id(tensor))
                slots.append(Slot(f"{prefix}.{key}" if prefix else key, owner, key))
    return slots


class Snapshot(NamedTuple):
    """Copies of some buffers, as they were before one micro-batch.

    ``sources`` are the tensors they were taken from, ``shapes`` theirs at that time.
    """

    slots: list[Slot]
    sources: list[Tensor]
    shapes: list[torch.Size]
    copies: list[Tensor]


class BufferGuard:
    """Keeps the values that buffers had before each micro-batch of the current accumulation window.

    Only buffers that change are copied. A buffer is first copied on trial, and the next batch finds out by comparison
    whether it has changed: a version counter alone would miss batch normalisation, whose kernel updates the running
    statistics without touching it. Afterwards the counters of the others are watched, and one that moves joins.
    New buffers (lazy ones, caches made in a forward pass) are looked for at batches 1, 2, 4, 8 and so on.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._slots: list[Slot] = []
        self._on_trial: list[Slot] = []
        self._watched: list[tuple[Slot, Tensor, int]] = []
        self._snapshots: list[Snapshot] = []
        self._used = 0
        self._batches = 0
        self._budget = SMALL_TOTAL_BYTES
        self._restored = False

    def before_batch(self, *, new_window: bool) -> None:
        """Copy the buffers that may change; ``new_window`` gives up the copies of the accumulation window before."""
        self._batches += 1
        if self._watched:
            self._promote()
        if self._on_trial:
            self._end_trial()
        if self._batches & (self._batches - 1) == 0:
            self._discover()
        if new_window:
            self._used = 0
        self._copy()

    def restore(self, micro_batch: int) -> None:
        """Return the buffers to their values before that micro-batch (0 = the first of the window)."""
        self._restored = True
        with torch.no_grad():
            for slot, saved in self._kept(micro_batch):
                tensor = slot.tensor
                if tensor is not None and _alike(tensor, saved) and not tensor.is_inference():
                    with _unnoticed_by_autograd(tensor):
                        tensor.copy_(saved)
                else:
                    slot.module._buffers[slot.key] = saved.clone()  # noqa: SLF001 - as in Slot.tensor

    def before(self, micro_batch: int) -> dict[str, Tensor]:
        """Return the kept values by buffer name; buffers that do not change are not in it."""
        return {slot.name: saved for slot, saved in self._kept(micro_batch)}

    def _kept(self, micro_batch: int) -> list[tuple[Slot, Tensor]]:
        if micro_batch >= self._used:
            return []
        snapshot = self._snapshots[micro_batch]
        return list(zip(snapshot.slots, snapshot.copies, strict=True))

    def _copy(self) -> None:
        """Copy into the memory of an earlier window where it fits."""
        self._used += 1
        if self._used <= len(self._snapshots) and self._copied_again(self._snapshots[self._used - 1]):
            return
        self._slots = [slot for slot in self._slots if slot.tensor is not None]  # a module may give up a buffer
        sources = [tensor for slot in self._slots if (tensor := slot.tensor) is not None]
        shapes = [tensor.shape for tensor in sources]
        snapshot = Snapshot(self._slots, sources, shapes, [tensor.detach().clone() for tensor in sources])
        self._snapshots[self._used - 1 : self._used] = [snapshot]

    def _copied_again(self, old: Snapshot) -> bool:
        """Copy with one call if the buffers are the same tensors as last time, which at most steps they are."""
        if old.slots is not self._slots:
            return False
        for (_, module, key), source, shape in zip(old.slots, old.sources, old.shapes, strict=True):
            if module._buffers.get(key) is not source or source.shape != shape:  # noqa: SLF001 - as in Slot.tensor
                return False
        if old.sources:
            with torch.no_grad():
                torch._foreach_copy_(old.copies, old.sources)
        return True

    def _discover(self) -> None:
        known = {*self._slots, *(slot for slot, _, _ in self._watched)}
        new = [slot for slot in buffer_slots(self._module) if slot not in known]
        if new:
            self._slots = self._slots + new
            self._on_trial += new
            self._restored = False

    def _end_trial(self) -> None:
        """Stop copying what the last batch has left as it was."""
        if self._restored:  # nothing can have changed: the trial goes on
            self._restored = False
            return
        trial = set(self._on_trial)
        constant = {
            slot: tensor
            for slot, saved in self._kept(self._used - 1)
            if slot in trial and (tensor := slot.tensor) is not None and not self._worth_copying(slot, tensor, saved)
        }
        self._watched += [(slot, tensor, _version(tensor)) for slot, tensor in constant.items()]
        self._slots = [slot for slot in self._slots if slot not in constant]
        self._on_trial = []

    def _worth_copying(self, slot: Slot, tensor: Tensor, saved: Tensor) -> bool:
        if isinstance(slot.module, _NormBase) or not _same(saved, tensor):
            return True
        size = saved.numel() * saved.element_size()
        if size > min(SMALL_BYTES, self._budget):
            return False
        self._budget -= size
        return True

    def _promote(self) -> None:
        moved = {slot for slot, seen, version in self._watched if slot.tensor is not seen or _version(seen) != version}
        if moved:
            self._watched = [entry for entry in self._watched if entry[0] not in moved]
            self._slots = self._slots + [slot for slot in moved if slot.tensor is not None]


def _unnoticed_by_autograd(tensor: Tensor) -> AbstractContextManager[object]:
    """Write without a new version: a graph of the same batch (the generator's, in a GAN) may have saved the buffer.

    Batch normalisation itself updates its statistics in this way.
    """
    preserve = getattr(torch.autograd, "_unsafe_preserve_version_counter", None)
    return nullcontext() if preserve is None else preserve(tensor)


def _version(tensor: Tensor) -> int:
    """Return the only cheap sign of an in-place write; a tensor made in inference mode takes none outside of it."""
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether one can be copied into the memory of the other."""
    strided = a.layout is torch.strided and b.layout is torch.strided
    return strided and a.shape == b.shape and a.dtype == b.dtype and a.device == b.device


def _same(a: Tensor, b: Tensor) -> bool:
    if not _alike(a, b):
        return False
    # NaN != NaN, and a mask of -inf must not look as if it changed at every batch.
    equal = torch.eq(a, b) | (a.isnan() & b.isnan()) if a.is_floating_point() else torch.eq(a, b)
    return bool(equal.all())
