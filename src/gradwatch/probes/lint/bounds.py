"""What is known of the values of a tensor from the way it was computed, whatever the batch."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

INF = math.inf


class Why(NamedTuple):
    """Why a bound is reached exactly.

    ``rare``: by one element at a time, so that a sum of many is not expected to. ``mask``: it is what leaves a score
    out.
    """

    text: str
    rare: bool = False
    mask: bool = False


class Bounds(NamedTuple):
    """An interval that holds every value.

    ``at_low``, ``at_high``: why the bound itself occurs, None if that is not expected. ``at_zero``: the same for a 0
    between the bounds. ``signed``: values of both signs are expected.
    """

    low: float = -INF
    high: float = INF
    at_low: Why | None = None
    at_high: Why | None = None
    at_zero: Why | None = None
    signed: bool = False

    @property
    def zero(self) -> Why | None:
        """Why the value can be exactly 0."""
        if self.low == 0.0:
            return self.at_low
        if self.high == 0.0:
            return self.at_high
        return self.at_zero if self.low < 0.0 < self.high else None

    @property
    def constant(self) -> float | None:
        """The only value, if there is only one."""
        return self.low if self.low == self.high else None

    def without_reasons(self) -> Bounds:
        """Return the interval alone: nobody expects that its bounds are reached."""
        return Bounds(
            self.low, self.high, self.at_low if self.at_low and self.at_low.mask else None, signed=self.signed
        )


UNKNOWN = Bounds()
SIGNED = Bounds(signed=True)
CONDITION = Bounds(0.0, 1.0, Why("the condition may hold nowhere"), Why("the condition may hold everywhere"))


def exactly(value: float) -> Bounds:
    """Return the bounds of a constant."""
    return Bounds(value, value)


def rounded(value: float, dtype: torch.dtype) -> float:
    """Return ``value`` as a tensor of ``dtype`` holds it."""
    if not dtype.is_floating_point or not math.isfinite(value):
        return value
    return _rounded(float(value), dtype)


@cache
def _rounded(value: float, dtype: torch.dtype) -> float:
    try:
        return float(torch.tensor(value, dtype=torch.float64, device="cpu").to(dtype).item())
    except RuntimeError:
        return math.copysign(INF, value)


@cache
def saturation(dtype: torch.dtype) -> float:
    """Return the x from which on sigmoid(x) rounds to 1: half precision is computed in float32 and rounded once."""
    half = dtype in {torch.float16, torch.bfloat16}
    return -math.log(_eps(dtype) / (4 if half else 2))


@cache
def tanh_saturation(dtype: torch.dtype) -> float:
    """Return the x from which on tanh(x) rounds to 1."""
    return -math.log(_eps(dtype) / 8) / 2


@cache
def elu_saturation(dtype: torch.dtype) -> float:
    """Return the x from which on exp(-x) - 1 rounds to -1."""
    return -math.log(_eps(dtype) / 4)


@cache
def exp_limit(dtype: torch.dtype) -> float:
    """Return the x from which on exp(x) is infinite."""
    return math.log(torch.finfo(dtype).max) if dtype.is_floating_point else 88.7


@cache
def exp_vanishes(dtype: torch.dtype) -> float:
    """Return the x below which exp(x) is 0."""
    info = torch.finfo(dtype if dtype.is_floating_point else torch.float32)
    return math.log(info.smallest_normal) + math.log(info.eps / 2)  # their product is 0 in float64


def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype if dtype.is_floating_point else torch.float32).eps


def short(dtype: torch.dtype) -> str:
    """Return ``float16`` for ``torch.float16``."""
    return str(dtype).removeprefix("torch.")


def bounded_by(parts: Sequence[Bounds]) -> Bounds:
    """Return the bounds of values that may come from any of several tensors."""
    lowest, highest = min(parts, key=lambda b: b.low), max(parts, key=lambda b: b.high)
    at_low = next((b.at_low for b in parts if b.low == lowest.low and b.at_low), None)
    at_high = next((b.at_high for b in parts if b.high == highest.high and b.at_high), None)
    zero = next((b.zero for b in parts if b.zero), None) if lowest.low < 0.0 < highest.high else None
    return Bounds(lowest.low, highest.high, at_low, at_high, zero, any(b.signed for b in parts))


def words(text: str) -> frozenset[str]:
    """Return the names in a text."""
    return frozenset(text.split())
