"""A few samples of a batch: a gradient check needs no more, and kinks and cost grow with each."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from gradwatch.replica.tensors import tensors_in

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def sample_count(batch: Any, axis: int = 0) -> int | None:
    """Return how many samples there are if ``axis`` counts them in every tensor, or None where they disagree."""
    tensors = list(tensors_in(batch))
    if not tensors or any(tensor.dim() <= axis for tensor in tensors):
        return None
    sizes = {tensor.shape[axis] for tensor in tensors}
    return sizes.pop() if len(sizes) == 1 else None


def rearranged(batch: Any, rows: list[int], axis: int = 0) -> Any:
    """Return the batch of these samples, in this order and as often as they are named.

    Raises:
        Exception: the batch holds something whose samples nobody knows.
    """
    return _cut(batch, sample_count(batch, axis) or 0, rows, axis)


def _cut(value: Any, size: int, samples: slice | list[int], axis: int = 0) -> Any:  # noqa: PLR0911 - one a kind
    if isinstance(value, Tensor):
        return value[(slice(None),) * axis + (samples,)] if value.dim() else value
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        return type(value)((key, _cut(item, size, samples, axis)) for key, item in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_cut(item, size, samples, axis) for item in value))
    if isinstance(value, (list, tuple)):
        one_a_sample = axis == 0 and len(value) == size and not any(True for _ in tensors_in(value))
        cut = _items(value, samples) if one_a_sample else [_cut(item, size, samples, axis) for item in value]
        return type(value)(cut)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: _cut(getattr(value, field.name), size, samples, axis) for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **fields)
    if isinstance(value, np.ndarray) and value.shape[axis : axis + 1] == (size,):
        return value[(slice(None),) * axis + (samples,)]
    if next(tensors_in(value), None) is not None:
        raise _CannotCutError(type(value).__name__)
    return value


def _items(values: Sequence[Any], samples: slice | list[int]) -> Sequence[Any]:
    return values[samples] if isinstance(samples, slice) else [values[row] for row in samples]
