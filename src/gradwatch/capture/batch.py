"""The tensors of a batch, by the names that a user would write: ``batch[0]``, ``batch['target']``, ``batch.x``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradwatch.capture.host_values import host_values
from gradwatch.numerics import nonfinite_counts

MAX_DEPTH = 6
MAX_ITEMS = 10_000
MAX_OBJECTS = 100_000
ORDERED = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def batch_size_of(batch: object) -> int | None:
    """Return the size of dimension 0 of the first tensor, as most loaders yield it; None if none is found at once."""
    for _ in range(MAX_DEPTH):
        if isinstance(batch, Tensor):
            return batch.shape[0] if batch.ndim else None
        if isinstance(batch, (list, tuple)) and batch:
            batch = batch[0]
        elif isinstance(batch, Mapping):
            batch = next(iter(batch.values()), None)
        else:
            return None
    return None


class BadTensor(NamedTuple):
    """A tensor with non-finite elements: its name, and how many of each kind."""

    name: str
    tensor: Tensor
    nan: int
    posinf: int
    neginf: int


def named_tensors(batch: object) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in nested lists, tuples, mappings, dataclasses and plain objects, the outermost first.

    A batch may hold any object: each is opened once, so that a web of objects ends, and depth and width are bounded.
    """
    level: list[tuple[str, Any]] = [("batch", batch)]
    opened: dict[int, object] = {}  # holds them: the id of an object that is gone is given to another
    for _ in range(MAX_DEPTH + 1):
        below: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, Tensor):
                yield name, value
            elif id(value) not in opened and len(opened) < MAX_OBJECTS:
                opened[id(value)] = value
                below += _children(value, name)
        level = below


def _children(value: Any, name: str) -> list[tuple[str, Any]]:
    try:
        return list(islice(_items(value, name), MAX_ITEMS))
    except Exception:  # noqa: BLE001 - what cannot be read must not hide the rest of the batch
        return []


def _items(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return ((f"{name}[{key!r}]", item) for key, item in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return ((f"{name}.{key}", getattr(value, key)) for key in value._fields)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, range)):
        return ((f"{name}[{i}]", item) for i, item in enumerate(value))
    if isinstance(value, type):
        return iter(())
    if dataclasses.is_dataclass(value):  # with slots it has no dictionary
        return ((f"{name}.{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value))
    return ((f"{name}.{key}", item) for key, item in getattr(value, "__dict__", {}).items())


def is_surely_finite(batch: object) -> bool:
    """Whether no tensor of ``batch`` holds NaN or ±inf, at a fraction of what ``bad_tensors`` costs.

    False where it is not sure: nested, sparse and complex tensors, and formats of 8 bits, are not looked at.
    """
    ends: list[Tensor] = []
    for _, tensor in named_tensors(batch):
        if tensor.is_floating_point() or tensor.is_complex():
            if tensor.is_nested or tensor.layout is not torch.strided or tensor.dtype not in ORDERED:
                return False
            ends += torch.aminmax(tensor.detach()) if tensor.numel() else ()
    return all(map(math.isfinite, host_values(ends)))


def bad_tensors(batch: object) -> list[BadTensor]:
    """Return the tensors of ``batch`` that hold NaN or ±inf. Reads the whole batch: for use after a failure only."""
    named = list(named_tensors(batch))
    if not named:
        return []
    counts = nonfinite_counts([tensor for _, tensor in named]).tolist()
    return [BadTensor(name, tensor, *row) for (name, tensor), row in zip(named, counts, strict=True) if any(row)]
