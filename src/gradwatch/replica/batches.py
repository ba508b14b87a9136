"""Batches as a step found them, although it may write into them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradwatch.replica.deepcopy import Copier
from gradwatch.replica.tensors import clone_together, tensors_in
from gradwatch.replica.torch_handlers import adopt, batch_handlers


def copy_batch(batch: Any, *, to: torch.device | None = None) -> Any:
    """Return ``batch`` with every tensor cloned and other objects deep-copied; what cannot be copied is shared.

    Clones keep ``requires_grad``, dtype, strides, and shared memory where they had it; they are leaves.

    Args:
        batch: nested lists, tuples, mappings, dataclasses or any objects.
        to: the device of the clones; None leaves each where it is.
    """
    with torch.inference_mode(False), torch.no_grad():
        try:
            return _copy(batch, to)
        except Exception:  # noqa: BLE001 - a batch can be anything, and a copy of it is no reason to end a training
            return batch


def _copy(batch: Any, device: torch.device | None) -> Any:
    def clone(tensor: Tensor) -> Tensor:
        try:
            return clone_together([tensor], device)[0]
        except RuntimeError:
            return tensor

    copier = Copier({}, batch_handlers(clone))
    tensors = list(tensors_in(batch))
    try:
        clones = clone_together(tensors, device)
    except RuntimeError:  # some tensor cannot be cloned: each is tried alone, on the way
        clones = []
    for tensor, data in zip(tensors, clones, strict=False):
        adopt(copier, tensor, data, requires_grad=tensor.requires_grad)
    return copier.copy(batch)


class BatchKeeper:
    """Keeps each batch for a replay, by reference as long as no step has written into its own batch.

    Dictionaries and lists are rebuilt, since a step may take keys out of them (``batch.pop("label")``). Tensors stay
    the same objects; their version counters tell whether a step has written into one, and copies are kept from the
    next batch on. Lists, tuples and the tensors inside of objects are looked at in batches 1, 2, 4, 8 and so on.
    """

    def __init__(self) -> None:
        self.copies = False
        self._batches = 0
        self._versions: list[tuple[Tensor, int]] = []
        self._attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def keep(self, batch: Any) -> Any:
        """Return what to keep of ``batch``, before the step sees it."""
        self._batches += 1
        self._versions, self._attributes = [], []
        if self.copies:
            return copy_batch(batch)
        if self._batches & (self._batches - 1) and type(batch) in {tuple, list}:
            # The most frequent batch by far, and this runs at every step: looked into on trial only.
            return type(batch)(batch)
        objects: list[Any] = []
        kept = self._rebuilt(batch, objects)
        if objects and self._batches & (self._batches - 1) == 0:
            self._versions += [(tensor, _version(tensor)) for tensor in tensors_in(objects)]
            self._attributes = [(vars(item), dict(vars(item))) for item in objects if hasattr(item, "__dict__")]
        # Nobody knows yet whether the step writes into the first.
        return copy_batch(batch) if self._batches == 1 else kept

    def check(self) -> None:
        """After the step: find out whether it has written into its batch."""
        if not (self._versions or self._attributes):
            return
        written = any(_version(tensor) != version for tensor, version in self._versions)
        if written or any(now != before for now, before in map(_identities, self._attributes)):
            self.copies = True
        self._versions, self._attributes = [], []

    def _rebuilt(self, value: Any, objects: list[Any]) -> Any:
        kind = type(value)
        if kind is Tensor:
            self._versions.append((value, _version(value)))
            return value
        if kind is dict:
            return {key: self._rebuilt(item, objects) for key, item in value.items()}
        if kind is list or kind is tuple:
            if value and type(value[0]) in _IMMUTABLE and type(value[-1]) in _IMMUTABLE:
                return kind(value)  # names or numbers, perhaps thousands
            return kind([self._rebuilt(item, objects) for item in value])
        if kind not in _IMMUTABLE:
            objects.append(value)
        return value


_IMMUTABLE = frozenset({int, float, bool, str, bytes, type(None)})


def _version(tensor: Tensor) -> int:
    """Return the version counter; a tensor made in inference mode has none, and takes no write outside of it."""
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 - no public one


def _identities(pair: tuple[dict[str, Any], dict[str, Any]]) -> tuple[dict[str, int], dict[str, int]]:
    now, before = pair
    return {key: id(item) for key, item in now.items()}, {key: id(item) for key, item in before.items()}
