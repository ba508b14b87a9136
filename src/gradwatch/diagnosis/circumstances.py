"""What an entry of the catalogue looks at: the traced origin and what surrounds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from gradwatch.records import Origin, TensorSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is known around an origin; every field may stay at its default.

    Attributes:
        losses: the bad losses, spelled NaN, +inf or -inf; empty if the loss is finite.
        bad_gradients: how many gradients are non-finite.
        gradients: of how many.
        producers: aligned with ``origin.inputs``: the base name of the operation that wrote each input, "" if unknown.
            In the backward phase the operation whose derivative, or forward, wrote it.
        scalars: plain number arguments of the operation, such as an exponent or the bounds of clamp.
        loss_scale: what the loss had been multiplied by, if at all.
        index: the first bad element of the output, or of the guilty tensor.
        sample: its position along dimension 0 of the batch, where that is the same thing.
        mixed_precision: whether the step ran under autocast.
        in_derivative: False where the phase is backward since only gradients are bad, but the operation itself ran in
            the forward pass: its value does not reach the loss and comes back in its derivative.
    """

    losses: Sequence[str] = ()
    bad_gradients: int = 0
    gradients: int = 0
    producers: Sequence[str] = ()
    scalars: Sequence[float] = ()
    loss_scale: float | None = None
    index: Sequence[int] | None = None
    sample: int | None = None
    mixed_precision: bool = False
    in_derivative: bool = True


# A number that overflows when multiplied by its like and summed: the square root of the largest float, less some digits
# for sums of a few hundred products.
LARGE = 0.45

UNKNOWN = TensorSummary(shape=(), dtype="", min=None, max=None, nan=0, posinf=0, neginf=0, zeros=0)


class Birth(NamedTuple):
    """An origin with its circumstances. What is not known makes every predicate false."""

    origin: Origin
    circumstances: Circumstances

    @property
    def op(self) -> str:
        """The operation as the entries spell it: one name for the variants of one computation."""
        name = (self.origin.op or "").removeprefix("foreach_")
        return "scaled_dot_product_attention" if name.startswith("scaled_dot_product") else name

    @property
    def is_nan(self) -> bool:
        """Whether finite inputs gave NaN."""
        return self.origin.transition == "finite->nan"

    @property
    def is_inf(self) -> bool:
        """Whether finite inputs gave an infinity."""
        return self.origin.transition == "finite->inf"

    @property
    def of_inf(self) -> bool:
        """Whether an infinity among the inputs gave NaN."""
        return self.origin.transition == "inf->nan"

    @property
    def in_derivative(self) -> bool:
        """Whether the derivative of the named operation made it, rather than the operation."""
        return self.origin.phase == "backward" and self.circumstances.in_derivative

    @property
    def is_hidden(self) -> bool:
        """Whether a forward value does not reach the loss and comes back in its derivative."""
        known = self.circumstances
        return not self.in_derivative and not known.losses and known.bad_gradients > 0

    @property
    def dtype(self) -> str:
        """The type in which the operation computed, as torch names it; "" if unknown."""
        known = [self.origin.output, *self.origin.inputs]
        return next((summary.dtype for summary in known if summary and limit(summary.dtype)), "")

    @property
    def largest(self) -> float:
        """The largest finite magnitude among the inputs; 0.0 if none is known."""
        return max((magnitude(summary) for summary in self.origin.inputs), default=0.0)

    def input(self, position: int) -> TensorSummary:
        """Return an input, or one of which nothing is known; negative positions count from the end."""
        inputs = self.origin.inputs
        return inputs[position] if -len(inputs) <= position < len(inputs) else UNKNOWN

    def producer(self, position: int) -> str:
        """Return what wrote an input, or ""."""
        producers = self.circumstances.producers
        return producers[position] if -len(producers) <= position < len(producers) else ""

    def scalar(self, position: int) -> float | None:
        """Return a plain number argument, or None."""
        scalars = self.circumstances.scalars
        return scalars[position] if position < len(scalars) else None


Say = str | Callable[[Birth], str]


class Entry(NamedTuple):
    """One row of the catalogue: for which births it is, why they happen, and what to change.

    ``ops`` empty means any operation. The first entry that applies is taken, so special ones stand before general ones.
    """

    name: str
    ops: frozenset[str]
    applies: Callable[[Birth], bool]
    why: Say
    advice: Say


def ops(names: str) -> frozenset[str]:
    """Return the operations of a list with blanks between them."""
    return frozenset(names.split())


def limit(dtype: str) -> float:
    """Return the largest finite number of a floating-point or complex type, 0.0 for any other."""
    kind = getattr(torch, dtype, None) if dtype else None
    if not isinstance(kind, torch.dtype) or not (kind.is_floating_point or kind.is_complex):
        return 0.0
    return float(torch.finfo(kind).max)


def is_half(dtype: str) -> bool:
    """Whether it is float16, whose largest number is 65504."""
    return dtype in ("float16", "complex32")


def is_complex(dtype: str) -> bool:
    """Whether its numbers have an imaginary part."""
    return dtype.startswith("complex")


def magnitude(summary: TensorSummary) -> float:
    """Return the largest finite magnitude, 0.0 if there is none."""
    return max(abs(summary.min or 0.0), abs(summary.max or 0.0))


def size(summary: TensorSummary) -> int:
    """Return the number of elements."""
    return math.prod(summary.shape)


def infinities(summary: TensorSummary) -> int:
    """Return the number of infinite elements."""
    return summary.posinf + summary.neginf


def below(summary: TensorSummary, bound: float) -> bool:
    """Whether a finite element is smaller than ``bound``."""
    return summary.min is not None and summary.min < bound


def above(summary: TensorSummary, bound: float) -> bool:
    """Whether a finite element is larger than ``bound``."""
    return summary.max is not None and summary.max > bound


def is_empty(summary: TensorSummary) -> bool:
    """Whether it is known to have no element."""
    return summary is not UNKNOWN and size(summary) == 0
