"""Forward births in loss functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.diagnosis.circumstances import Entry, below, infinities, is_empty, limit, ops, size
from gradwatch.diagnosis.wording import at, number, shape, small, span, zeros

if TYPE_CHECKING:
    from gradwatch.diagnosis.circumstances import Birth

CLASSIFICATION = ops("nll_loss nll_loss2d nll_loss_nd cross_entropy cross_entropy_loss")
REGRESSION = ops("mse_loss l1_loss smooth_l1_loss huber_loss poisson_nll_loss gaussian_nll_loss kl_div")
BINARY = ops("binary_cross_entropy binary_cross_entropy_with_logits soft_margin_loss")


def _weights_of_zero(birth: Birth) -> bool:
    """Targets are integers and not among the inputs; the class weights are."""
    return birth.is_nan and birth.input(1).zeros > 0 and birth.input(1).shape == birth.input(0).shape[1:2]


def _targets(birth: Birth) -> int:
    classes = birth.input(0).shape[1:2]
    return size(birth.input(0)) // max(1, *classes) if classes else 1


def _is_divergence(birth: Birth) -> bool:
    """Whether it is the target * log(target) of kl_div, rather than a call of xlogy."""
    return birth.op == "kl_div" or birth.input(0) == birth.input(1)


def _logged(birth: Birth) -> str:
    return span(birth.input(1)) if len(birth.origin.inputs) > 1 else number(birth.scalar(0))


LOSSES = (
    Entry(
        "loss over nothing",
        CLASSIFICATION | REGRESSION | BINARY,
        lambda b: b.is_nan and is_empty(b.input(0)),
        lambda b: f"{b.op} took the mean of nothing: its input has shape {shape(b.input(0))}, and 0/0 is NaN.",
        "Guard the empty selection: skip the term for such a batch, or use reduction='sum' divided by max(count, 1).",
    ),
    Entry(
        "targets of weight 0",
        CLASSIFICATION,
        _weights_of_zero,
        lambda b: (
            f"{b.op} divides by the total weight of the targets, which is 0: in the class weights, {zeros(b.input(1))},"
            " and every target of this batch is of such a class or ignored."
        ),
        "Skip such a batch, give every class a weight above 0, or use reduction='sum' and divide by the total weight"
        " with clamp(min=1e-6).",
    ),
    Entry(
        "all targets ignored",
        CLASSIFICATION,
        lambda b: b.is_nan,
        lambda b: (
            f"No target of this batch counts: all of the {_targets(b)} are ignore_index, and the mean over none is 0/0."
            if _targets(b) > 1
            else "No target of this batch counts: it is ignore_index, and the mean over none is 0/0."
        ),
        "Guard it: skip the batch when (target != ignore_index).sum() is 0, or use reduction='sum' and divide by that"
        " count with clamp(min=1). Look at why the batch has no valid target: truncation, an empty mask, a filter.",
    ),
    Entry(
        "CTC alignment that does not exist",
        ops("ctc_loss cudnn_ctc_loss"),
        lambda b: b.is_inf,
        lambda b: (
            f"ctc_loss is infinite{at(b)}: that sample has fewer frames than its target needs, which is the target's"
            " length plus one per repeated neighbour, or a needed symbol has log-probability -inf."
        ),
        "Pass zero_infinity=True, and check input_lengths >= target_lengths + repeats in the dataset: such samples are"
        " too short or too strongly subsampled. Pass lengths after the model's own subsampling.",
    ),
    Entry(
        "logits that are infinite",
        BINARY,
        lambda b: b.of_inf,
        lambda b: f"{b.op} met an infinite input{at(b)}, and inf - inf is NaN in it.",
        "Select the valid elements, or pass weight=mask with finite logits: fill masked logits with 0, not with -inf.",
    ),
    Entry(
        "negative target of a divergence",
        ops("kl_div xlogy"),
        lambda b: b.is_nan and _is_divergence(b) and below(b.input(1), 0.0),
        lambda b: f"{b.op} takes the logarithm of a negative number{at(b)}: the values are {span(b.input(1))}.",
        "kl_div(input, target) wants log-probabilities first and probabilities second: exchange them, or pass"
        " log_target=True if both are logarithms.",
    ),
    Entry(
        "logarithm in xlogy",
        ops("xlogy"),
        lambda b: b.is_nan or (b.is_inf and (b.input(1).zeros > 0 or b.scalar(0) == 0)),
        lambda b: (
            f"{b.op}(x, y) multiplies x by the logarithm of y, and that is"
            f" {'NaN' if b.is_nan else 'infinite'}{at(b)}: x is {span(b.input(0))}, y {_logged(b)}."
        ),
        lambda b: (
            "Keep y positive: torch.xlogy(x, y.clamp(min=" + small(b) + ")). It is 0 at y = 0 only where x is 0 as"
            " well; x may be negative."
        ),
    ),
    Entry(
        "loss of an infinite input",
        CLASSIFICATION | REGRESSION | ops("xlogy"),
        lambda b: b.of_inf and any(infinities(x) for x in b.origin.inputs),
        lambda b: f"{b.op} met an infinity{at(b)}, and inf - inf or 0 * inf in it is NaN.",
        "Select the valid elements before the loss: loss(x[mask], y[mask]). Multiplying by a mask of 0 does not remove"
        " an infinity.",
    ),
    Entry(
        "loss beyond the largest number",
        REGRESSION | BINARY,
        lambda b: b.is_inf,
        lambda b: (
            f"{b.op} overflowed{at(b)}: the input is {span(b.input(0))}, the target {span(b.input(1))}, and {b.dtype}"
            f" ends at {number(limit(b.dtype))}."
        ),
        "Scale the targets to about 1, compute the loss in float32, and lower the learning rate or clip the gradients"
        " if the prediction has run away; smooth_l1_loss grows slower than a square.",
    ),
)
