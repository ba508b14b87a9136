"""Forward births in sums, means, spreads, products and norms."""

from __future__ import annotations

from gradwatch.diagnosis.circumstances import Entry, is_empty, limit, ops, size
from gradwatch.diagnosis.wording import at, infinite, number, shape, span, where

SPREADS = ops("std var std_mean var_mean")
MEANS = ops("mean nanmean median nanmedian quantile")
NORMS = ops("linalg_vector_norm norm dist cdist linalg_matrix_norm renorm")
TOTALS = ops("sum mean cumsum logcumsumexp nansum") | NORMS | ops("prod cumprod") | SPREADS
POOLINGS = ops("avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d")

REDUCTIONS = (
    Entry(
        "mean of nothing",
        MEANS | SPREADS,
        lambda b: b.is_nan and is_empty(b.input(0)),
        lambda b: (
            f"The {b.op} of an empty tensor is NaN: its input has shape {shape(b.input(0))}, so nothing was selected."
        ),
        "Guard the empty selection: x[mask].sum() / mask.sum().clamp(min=1), or skip the term for such a batch.",
    ),
    Entry(
        "spread of one element",
        SPREADS,
        lambda b: b.is_nan and not b.of_inf and b.largest < limit(b.dtype) ** 0.5,
        lambda b: (
            f"{b.op} divides by n - 1, which is 0 for a single element{where(b)}: its input has shape"
            f" {shape(b.input(0))}, and 0/0 is NaN."
        ),
        "Usually the last batch has one sample: drop_last=True in the DataLoader. Where one element is legitimate, pass"
        " correction=0 (unbiased=False); its derivative needs eps: (x.var(correction=0) + 1e-6).sqrt().",
    ),
    Entry(
        "sum over infinities of both signs",
        TOTALS,
        lambda b: b.of_inf,
        lambda b: f"{b.op} met infinities that do not add up to a number{at(b)}: {infinite(b.input(0))}.",
        "Look at where the infinities are written: a mask filled with -inf belongs right before a softmax; elsewhere"
        " fill with a finite value, or select the valid elements first.",
    ),
    Entry(
        "reduction beyond the largest number",
        TOTALS | POOLINGS,
        lambda b: b.is_inf or b.is_nan,
        lambda b: (
            f"{b.op} of {size(b.input(0))} values overflowed{at(b)}: they are {span(b.input(0))}, and {b.dtype} ends at"
            f" {number(limit(b.dtype))}."
        ),
        lambda b: (
            "Sum in float32: x.float().sum(); float16 ends at 65504."
            if b.dtype == "float16"
            else "Add up logarithms in place of a product: x.log().sum()."
            if b.op in ("prod", "cumprod")
            else "The numbers have grown out of bounds: lower the learning rate, clip the gradients, or normalise and"
            " bound what goes in."
        ),
    ),
)
