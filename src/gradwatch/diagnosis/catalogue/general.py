"""What is said of a forward operation that no other entry knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.diagnosis.catalogue.networks import BFLOAT
from gradwatch.diagnosis.circumstances import LARGE, Entry, infinities, is_empty, is_half, limit, ops, size
from gradwatch.diagnosis.wording import at, number, shape, span

if TYPE_CHECKING:
    from gradwatch.diagnosis.circumstances import Birth


def _ranges(birth: Birth) -> str:
    inputs = [summary for summary in birth.origin.inputs if limit(summary.dtype) and size(summary)]
    return " and ".join(span(summary) for summary in inputs[:2])


def _made(birth: Birth) -> str:
    return "an infinity" if birth.is_inf else "NaN"


GENERAL = (
    Entry(
        "anything of nothing",
        ops(""),
        lambda b: b.is_nan and any(map(is_empty, b.origin.inputs)),
        lambda b: f"{b.op} of an empty tensor is NaN: shape {shape(next(filter(is_empty, b.origin.inputs)))}.",
        "Guard the empty selection: skip the term for such a batch, or divide by the count with clamp(min=1).",
    ),
    Entry(
        "anything of an infinity",
        ops(""),
        lambda b: b.of_inf and any(map(infinities, b.origin.inputs)),
        lambda b: f"{b.op} made NaN of an infinity{at(b)}; the other values are {_ranges(b)}.",
        lambda b: (
            f"Look at where the infinity is written. A mask of -inf belongs right before a softmax; give {b.op} finite"
            " values, or select the valid elements first."
        ),
    ),
    Entry(
        "anything beyond the largest number",
        ops(""),
        lambda b: (b.is_inf or b.is_nan) and b.largest >= limit(b.dtype) ** LARGE > 1,
        lambda b: f"{b.op} overflowed{at(b)}: {_ranges(b)} went in, and {b.dtype} ends at {number(limit(b.dtype))}.",
        lambda b: (
            f"{BFLOAT} Or compute this part in float32."
            if is_half(b.dtype)
            else "The numbers have grown out of bounds: lower the learning rate, clip the gradients, or normalise and"
            " bound what goes in."
        ),
    ),
    Entry(
        "any other operation",
        ops(""),
        lambda _: True,
        lambda b: (
            f"{b.op or 'An operation'} made {_made(b)}{at(b)}"
            + (f" of finite values: {_ranges(b)}." if _ranges(b) else ".")
        ),
        lambda b: (
            f"Compare these numbers with what {b.op or 'it'} is defined for: 0, a negative number, the edge of the"
            " domain or an empty selection. Clamp its input strictly inside, or select the valid elements first."
        ),
    ),
)
