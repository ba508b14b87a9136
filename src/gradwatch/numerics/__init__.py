"""Pure functions of tensors: norms, clipping and finiteness.

Nothing here reads a value back to the host, keeps state, changes a global setting or, `scale_` apart, writes to what
it is given; the same input gives the same output.
"""

from __future__ import annotations

from gradwatch.numerics.clipping import clip_coefficient, scale_
from gradwatch.numerics.finiteness import Summary, nonfinite_counts, summarize
from gradwatch.numerics.gradients import agreement, inner_product, random_direction, root_mean_square
from gradwatch.numerics.norms import UNDERFLOW, exact_l2_norms, few_l2_norms, l2_norms, total_norm

__all__ = [
    "UNDERFLOW",
    "Summary",
    "agreement",
    "clip_coefficient",
    "exact_l2_norms",
    "few_l2_norms",
    "inner_product",
    "l2_norms",
    "nonfinite_counts",
    "random_direction",
    "root_mean_square",
    "scale_",
    "summarize",
    "total_norm",
]
