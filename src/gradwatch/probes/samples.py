"""A few samples of a batch: a gradient check needs no more, and kinks and cost grow with each."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from torch import Tensor

from gradwatch.replica.tensors import tensors_in

_PLAIN = (int, float, complex, bool, str, bytes, type(None))


class _CannotCutError(Exception):
    """The batch holds something whose samples nobody knows."""


def few_samples(batch: Any, samples: int, first: int = 0) -> Any | None:
    """Return ``samples`` samples, or None where the batch cannot be cut, or has no more than these.

    Tensors of at least one dimension, and lists as long as they, must all agree on how many samples there are.
    """
    sizes = {tensor.shape[0] for tensor in tensors_in(batch) if tensor.dim()}
    size = next(iter(sizes), 0)
    if len(sizes) != 1 or size <= samples:
        return None
    try:
        first = first % (size // samples) * samples
        return _cut(batch, size, slice(first, first + samples))
    except Exception:  # noqa: BLE001 - a batch can be anything; the whole of it will do
        return None


def _cut(value: Any, size: int, samples: slice) -> Any:  # noqa: PLR0911 - one return for each kind of value
    if isinstance(value, Tensor):
        return value[samples] if value.dim() else value
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        return type(value)((key, _cut(item, size, samples)) for key, item in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_cut(item, size, samples) for item in value))
    if isinstance(value, (list, tuple)):
        one_a_sample = len(value) == size and not any(True for _ in tensors_in(value))
        return type(value)(value[samples] if one_a_sample else [_cut(item, size, samples) for item in value])
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cut = {field.name: _cut(getattr(value, field.name), size, samples) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **cut)
    if isinstance(value, np.ndarray) and value.shape[:1] == (size,):
        return value[samples]
    if next(tensors_in(value), None) is not None:
        raise _CannotCutError(type(value).__name__)
    return value
