"""Forward births in softmax, logsumexp and attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradwatch.diagnosis.circumstances import Entry, infinities, is_empty, limit, magnitude, ops
from gradwatch.diagnosis.wording import infinite, shape, span

if TYPE_CHECKING:
    from gradwatch.diagnosis.circumstances import Birth

SOFTMAXES = ops("softmax log_softmax logsumexp")


def row(birth: Birth) -> str:
    """Return `` (row [0, 3] of sample 2)``: the position without the axis of the softmax."""
    index, sample = birth.circumstances.index, birth.circumstances.sample
    parts = []
    if index and len(index) > 1:
        parts.append(f"row {list(index[:-1])}")
    if sample is not None:
        parts.append(f"sample {sample}")
    return f" ({', '.join(parts)})" if parts else ""


def _scores_overflow(birth: Birth) -> bool:
    """Whether finite queries and keys are so large that their scaled product can exceed the largest number."""
    queries, keys = birth.input(0), birth.input(1)
    if infinities(queries) or infinities(keys):
        return False
    depth = queries.shape[-1] if queries.shape else 1
    largest = magnitude(queries) * magnitude(keys) * math.sqrt(depth)
    return largest > 0.0 and largest >= limit(birth.dtype)


SOFTMAX = (
    Entry(
        "logsumexp of nothing",
        ops("logsumexp"),
        lambda b: not b.of_inf and is_empty(b.input(0)),
        lambda b: f"logsumexp of an empty tensor is -inf: its input has shape {shape(b.input(0))}, and log(0) is -inf.",
        "Guard the empty selection: skip the term for such a batch, or give the sum an element that is always there,"
        " such as a logit of 0.",
    ),
    Entry(
        "softmax over nothing but -inf",
        SOFTMAXES,
        lambda b: b.of_inf and b.input(0).neginf > 0 and not b.input(0).posinf,
        lambda b: f"{b.op} over a row that holds nothing but -inf{row(b)} is 0/0: every position of it is masked.",
        "Leave at least one key valid in each row, or fill the mask with a large finite number (-1e4) and zero the"
        " output of such rows afterwards. On CPU, MultiheadAttention with need_weights=False gives 0 there.",
    ),
    Entry(
        "softmax of +inf",
        SOFTMAXES,
        lambda b: b.of_inf,
        lambda b: (
            f"{b.op} subtracts the largest logit, and inf - inf is NaN{row(b)}: in its input, {infinite(b.input(0))}."
        ),
        "Look at what makes a logit infinite: a product of queries and keys without a scale, a division by a"
        " temperature near 0, or an overflow in float16. Normalise queries and keys, or clamp the logits.",
    ),
    Entry(
        "attention scores beyond the largest number",
        ops("scaled_dot_product_attention"),
        _scores_overflow,
        lambda b: (
            f"The scores of scaled_dot_product_attention overflowed{row(b)}: queries are {span(b.input(0))}, keys"
            f" {span(b.input(1))} in {b.dtype}, and softmax of an infinite score is NaN."
        ),
        "Normalise queries and keys (a LayerNorm or RMSNorm on each head), keep the scale 1/sqrt(d), lower the learning"
        " rate, or run attention in bfloat16 in place of float16.",
    ),
    Entry(
        "attention over infinities",
        ops("scaled_dot_product_attention"),
        lambda b: b.of_inf,
        lambda b: (
            f"scaled_dot_product_attention met an infinity{row(b)}: a row whose keys are all masked by -inf, or an"
            " infinite query, key or value."
        ),
        "Leave at least one key valid in each row, or fill an additive mask with a large finite number, and zero the"
        " output of fully masked rows.",
    ),
)
