"""Forward births in layers: normalisation, matrix products, casts, and numbers of 16 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.diagnosis.circumstances import Entry, below, infinities, is_half, limit, ops
from gradwatch.diagnosis.wording import at, number, span, zeros

if TYPE_CHECKING:
    from gradwatch.diagnosis.circumstances import Birth

MATMULS = ops(
    "mm addmm bmm baddbmm addbmm matmul linear addmv mv dot vdot einsum convolution conv1d conv2d conv3d"
    " slow_conv2d mkldnn_convolution cudnn_convolution convolution_overrideable mkldnn_rnn_layer cudnn_rnn lstm gru"
)
NORMALISATIONS = ops(
    "layer_norm batch_norm group_norm instance_norm rms_norm fused_rms_norm batch_norm_legit"
    " batch_norm_legit_no_training batch_norm_with_update cudnn_batch_norm miopen_batch_norm"
)
CASTS = ops("to_copy to copy")

BFLOAT = "bfloat16 reaches as far as float32: use precision='bf16-mixed', or autocast with dtype=torch.bfloat16."


def _from(birth: Birth) -> str:
    inputs = [summary for summary in birth.origin.inputs if limit(summary.dtype)]
    return " and ".join(span(summary) for summary in inputs[:3])


NETWORKS = (
    Entry(
        "cast to a smaller range",
        CASTS,
        lambda b: b.is_inf,
        lambda b: (
            f"A cast to {b.dtype} overflowed{at(b)}: the {b.input(0).dtype} values are {span(b.input(0))}, and"
            f" {b.dtype} ends at {number(limit(b.dtype))}."
        ),
        lambda b: (
            f"{BFLOAT} Or keep this tensor in float32 (autocast off around it), or scale it down before the cast."
            if is_half(b.dtype)
            else f"Keep this tensor in {b.input(0).dtype}; a number so large means that the run has diverged or that"
            " a mask is filled with the smallest number of a wider type."
        ),
    ),
    Entry(
        "matrix product of an infinity",
        MATMULS,
        lambda b: b.of_inf,
        lambda b: (
            f"{b.op} multiplied or added infinities{at(b)}: 0 * inf and inf - inf are NaN, which fills the whole row."
        ),
        "Look at where the infinity is written. A mask of -inf belongs right before a softmax; zero the masked rows"
        " with torch.where before the product.",
    ),
    Entry(
        "matrix product beyond the largest number",
        MATMULS,
        lambda b: b.is_inf or b.is_nan,
        lambda b: f"{b.op} overflowed{at(b)}: {_from(b)} went in, and {b.dtype} ends at {number(limit(b.dtype))}.",
        lambda b: (
            f"{BFLOAT} In float16, scale the layer's input or weights down, or run this layer in float32."
            if is_half(b.dtype)
            else "The activations or weights have grown out of bounds: lower the learning rate, clip the gradients, or"
            " normalise before this layer."
        ),
    ),
    Entry(
        "weight norm of a row of zeros",
        ops("weight_norm_interface weight_norm"),
        lambda b: not b.of_inf and b.input(0).zeros > 0,
        lambda b: (
            f"Weight normalisation divides each row of the direction by its norm, and a row of it is 0{at(b)}:"
            f" {zeros(b.input(0))}; 0/0 is NaN."
        ),
        "To start a layer at zero set the magnitude to zero (weight_g, or original0 of the parametrization), never the"
        " direction (weight_v, original1), and leave weight_v out of pruning and weight decay.",
    ),
    Entry(
        "normalisation with eps 0",
        NORMALISATIONS,
        lambda b: not b.of_inf and 0.0 in b.circumstances.scalars[-1:],
        lambda b: (
            f"{b.op} divides by a spread of 0 with eps=0{at(b)}: the input, {span(b.input(0))}, has constant rows."
        ),
        "Give the normalisation its eps back: 1e-5.",
    ),
    Entry(
        "normalisation by a negative variance",
        NORMALISATIONS,
        lambda b: b.is_nan and below(b.input(-1), 0.0),
        lambda b: f"{b.op} took the square root of a negative running variance{at(b)}.",
        "A running variance is never negative: look for code that writes to the buffer, averages weights and buffers"
        " together, or loads a checkpoint of another model. Reset it with reset_running_stats().",
    ),
    Entry(
        "normalisation of an infinity",
        NORMALISATIONS,
        lambda b: b.of_inf and any(map(infinities, b.origin.inputs)),
        lambda b: (
            f"{b.op} subtracts the mean, and inf - inf is NaN{at(b)}: one infinite element spoils all that it meets."
        ),
        "Look at where the infinity is written: an overflow in the layer before, or a fill with -inf, which belongs"
        " right before a softmax.",
    ),
    Entry(
        "normalisation beyond the largest number",
        NORMALISATIONS,
        lambda b: b.is_inf or b.is_nan,
        lambda b: (
            f"{b.op} overflowed{at(b)} while squaring or summing its input, {span(b.input(0))}; {b.dtype} ends at"
            f" {number(limit(b.dtype))}."
        ),
        "Run the normalisation in float32, and bound what goes in: lower the learning rate or clip the gradients if it"
        " has grown out of bounds.",
    ),
)
