"""Births in the backward pass: infinite slopes, masked elements that come back as 0 * inf, gradients too large."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gradwatch.diagnosis.catalogue.deliberate import DELIBERATE_DERIVATIVES
from gradwatch.diagnosis.catalogue.linear_algebra import SPECTRAL_DERIVATIVES
from gradwatch.diagnosis.circumstances import LARGE, Entry, infinities, is_half, limit, ops, size
from gradwatch.diagnosis.wording import at, number, off_zero, small, some, span, where

if TYPE_CHECKING:
    from gradwatch.diagnosis.circumstances import Birth
    from gradwatch.records import TensorSummary

# What passes a gradient of exactly 0 to the elements that it leaves out.
MASKS = ops(
    "where masked_fill masked_select index index_select gather take take_along_dim select slice mul max min amax amin"
    " maximum minimum topk sort clamp clamp_min clamp_max relu threshold scatter index_put max_pool2d_with_indices"
)


class Edge(NamedTuple):
    """Where the slope of a function is infinite, and how to stay away from there."""

    place: str
    repair: str


EDGES = {
    "sqrt": Edge("at 0", "sqrt(x + {eps}), with the eps inside"),
    "pow": Edge("at 0 for an exponent below 1", "{x} ** p"),
    "linalg_vector_norm": Edge("at the zero vector", "(x.square().sum(-1) + {eps}).sqrt()"),
    "acos": Edge("at ±1", "acos(x.clamp(-1 + 1e-6, 1 - 1e-6)), strictly inside: a clamp to [-1, 1] keeps the edge"),
    "asin": Edge("at ±1", "asin(x.clamp(-1 + 1e-6, 1 - 1e-6)), strictly inside: a clamp to [-1, 1] keeps the edge"),
    "acosh": Edge("at 1", "acosh(x.clamp(min=1 + 1e-6))"),
    "xlogy": Edge("at 0 in its second argument", "torch.xlogy(x, {y})"),
    "special_entr": Edge("at 0", "entr({x}), or log_softmax for a distribution"),
}


def _edge_input(birth: Birth) -> TensorSummary:
    """Return the input that is 0 where the slope is infinite: by construction of the formulas the last such one."""
    return next((summary for summary in reversed(birth.origin.inputs) if summary.zeros), birth.input(-1))


def _at_edge(birth: Birth) -> bool:
    ordinary = birth.largest < limit(birth.dtype) ** LARGE
    return not birth.of_inf and ordinary and any(summary.zeros for summary in birth.origin.inputs)


def _repair(birth: Birth) -> str:
    return EDGES[birth.op].repair.format(eps=small(birth), x=off_zero(birth), y=off_zero(birth, "y"))


def _mask(birth: Birth) -> str:
    """Return what passed a gradient of 0, or ""."""
    inputs = birth.origin.inputs
    return next((birth.producer(i) for i, x in enumerate(inputs) if x.zeros and birth.producer(i) in MASKS), "")


def _trapped(birth: Birth) -> bool:
    met = birth.is_nan and sum(bool(summary.zeros) for summary in birth.origin.inputs) > 1
    return bool(_mask(birth)) and (met or (birth.of_inf and any(map(infinities, birth.origin.inputs))))


def _is_custom(birth: Birth) -> bool:
    return birth.op[:1].isupper()


def _binary_half(birth: Birth) -> bool:
    return is_half(birth.dtype) and not birth.of_inf


def _sizes(birth: Birth) -> str:
    inputs = [summary for summary in birth.origin.inputs if limit(summary.dtype) and size(summary)]
    return " and ".join(span(summary) for summary in inputs[:2])


def _scale(birth: Birth) -> str:
    scale = birth.circumstances.loss_scale
    return f"; the loss had been multiplied by {number(scale)}" if scale and scale != 1.0 else ""


DERIVATIVES = (
    *DELIBERATE_DERIVATIVES,
    Entry(
        "derivative of a custom Function",
        ops(""),
        _is_custom,
        lambda b: (
            f"The backward of the custom Function {b.op} made it{at(b)}: {_sizes(b) or 'finite numbers'} went into its"
            " own code, and a non-finite gradient came out."
        ),
        "Read that backward for a division, log or root at the edge of its domain, and guard it with clamp or eps as in"
        " the forward. torch.autograd.gradcheck in float64 on this input shows whether it is right elsewhere.",
    ),
    Entry(
        "gradient of a masked element",
        ops(""),
        _trapped,
        lambda b: (
            f"The derivative of {b.op} is infinite or NaN{at(b)}, and {_mask(b)} leaves that element out and passes a"
            " gradient of 0: 0 * inf is NaN."
        ),
        lambda b: (
            f"Mask the input of {b.op}, not its output: safe = torch.where(valid, x, 1.0), then {b.op} of safe, and"
            " mask the result as before (for a division, mask the divisor). Selecting x[valid] first works too."
        ),
    ),
    Entry(
        "infinite slope",
        frozenset(EDGES),
        _at_edge,
        lambda b: (
            f"The slope of {b.op} is infinite {EDGES[b.op].place}{where(b)}:"
            f" {some(_edge_input(b).zeros, _edge_input(b), 'exactly there')}"
            + (", and an incoming gradient of 0 makes it 0 * inf." if b.is_nan else ".")
        ),
        lambda b: (
            f"Keep away from the edge: {_repair(b)}. An eps added to the result does not"
            " help. If a mask leaves such elements out, mask the input, not the output."
        ),
    ),
    Entry(
        "derivative of a probability in float16",
        ops("binary_cross_entropy"),
        _binary_half,
        lambda b: (
            f"The derivative of binary_cross_entropy divides by p * (1 - p){where(b)}, which is 0 at p = 0 or 1, and"
            " its eps of 1e-12 rounds to 0 in float16."
        ),
        "Use binary_cross_entropy_with_logits, which is safe under autocast, or compute this loss in float32.",
    ),
    Entry(
        "derivative of a loss over nothing",
        ops("nll_loss nll_loss2d"),
        lambda b: b.is_nan,
        lambda b: f"{b.op} divides its gradient by the total weight of the targets, which is 0{at(b)}.",
        "Skip such a batch, give every class a weight above 0, or use reduction='sum' and divide by the total weight"
        " with clamp(min=1e-6).",
    ),
    Entry(
        "derivative of logsumexp over nothing but -inf",
        ops("logsumexp logcumsumexp"),
        lambda b: b.of_inf and any(summary.neginf for summary in b.origin.inputs),
        lambda b: (
            f"A row of {b.op} holds nothing but -inf{where(b)}: its derivative takes -inf minus -inf, which is NaN."
        ),
        "Leave at least one finite element in each row, or fill masked elements with a large finite number such as -1e4"
        " in place of -inf and leave such rows out of the loss.",
    ),
    *SPECTRAL_DERIVATIVES,
    Entry(
        "derivative that divides by 0",
        ops(""),
        _at_edge,
        lambda b: (
            f"The derivative of {b.op} divides by 0 or is infinite{at(b)}:"
            f" {some(_edge_input(b).zeros, _edge_input(b), '0')} in it."
        ),
        lambda b: (
            f"Keep the input of {b.op} away from where its slope is infinite: {off_zero(b)}, or an eps inside."
            f" If a mask leaves such elements out, mask the input of {b.op}, not its output."
        ),
    ),
    Entry(
        "gradient of 0 times infinity",
        ops(""),
        lambda b: b.of_inf,
        lambda b: (
            f"In the derivative of {b.op} an infinity met 0 or another infinity{at(b)}; 0 * inf and inf - inf are NaN."
        ),
        lambda b: (
            f"Look at where the infinity enters {b.op}: a fill with -inf belongs right before a softmax. If a mask"
            f" hides it from the loss, mask the input of {b.op}, not its output."
        ),
    ),
    Entry(
        "gradient beyond the largest number of float16",
        ops(""),
        lambda b: is_half(b.dtype) and (b.is_inf or b.is_nan),
        lambda b: (
            f"A gradient overflowed in the derivative of {b.op}{at(b)}: {_sizes(b)} went in, and float16 ends at 65504"
            f"{_scale(b)}."
        ),
        "Use bfloat16, which reaches as far as float32 (precision='bf16-mixed'), or a GradScaler with a smaller"
        " init_scale and growth_factor; compute the loss itself in float32.",
    ),
    Entry(
        "gradient beyond the largest number",
        ops(""),
        lambda b: (b.is_inf or b.is_nan) and b.largest >= limit(b.dtype) ** LARGE > 1,
        lambda b: (
            f"A gradient overflowed in the derivative of {b.op}{at(b)}: {_sizes(b)} went in, and {b.dtype} ends at"
            f" {number(limit(b.dtype))}{_scale(b)}."
        ),
        "Gradients grow from layer to layer or step to step: lower the learning rate, clip the gradient norm, normalise"
        " the layers, or truncate backpropagation through time.",
    ),
    Entry(
        "any other derivative",
        ops(""),
        lambda _: True,
        lambda b: (
            f"The derivative of {b.op or 'an operation'} is not finite{at(b)}"
            + (f": {_sizes(b)} went into it." if _sizes(b) else ".")
        ),
        lambda b: (
            f"Look at where {b.op or 'it'} is steep: at 0, at the edge of its domain, or for large arguments. Clamp its"
            " input strictly inside, add eps before and not after it, and mask inputs in place of outputs."
        ),
    ),
)
