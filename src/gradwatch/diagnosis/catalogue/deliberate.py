"""Infinities that were written on purpose, as a mask's or a padding's, and reach loss or gradients: no births."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.diagnosis.catalogue.losses import CLASSIFICATION
from gradwatch.diagnosis.catalogue.writes import FILLS
from gradwatch.diagnosis.circumstances import UNKNOWN, Entry, infinities, ops
from gradwatch.diagnosis.wording import at, infinite

if TYPE_CHECKING:
    from gradwatch.diagnosis.circumstances import Birth
    from gradwatch.records import TensorSummary

LARGEST = ops("max amax logsumexp logcumsumexp cummax topk max_pool1d max_pool2d_with_indices max_pool3d_with_indices")
MEANS = ops("mean nanmean sum nansum")


def _passes(birth: Birth) -> bool:
    """Whether infinities went through: what was born has a transition."""
    known = [*birth.origin.inputs, birth.origin.output or UNKNOWN]
    return birth.origin.transition is None and (birth.op in FILLS or any(map(infinities, known)))


def _carrier(birth: Birth) -> TensorSummary:
    return next(filter(infinities, birth.origin.inputs), UNKNOWN)


def _carried(birth: Birth) -> str:
    carrier = _carrier(birth)
    return f": in its input, {infinite(carrier)}" if carrier.shape else ""


def _only_masked(birth: Birth) -> bool:
    return _passes(birth) and bool(_carrier(birth).neginf) and not _carrier(birth).posinf


DELIBERATE = (
    Entry(
        "target that is masked",
        CLASSIFICATION,
        _only_masked,
        lambda b: (
            f"A target is of a class that has been masked with -inf{at(b)}: its log-probability is -inf, and {b.op}"
            f" takes the negative of it{_carried(b)}."
        ),
        "Never mask the class that is the target: look at how mask and target are made (an index off by one, a special"
        " token as the target). Leave such samples out otherwise: loss(logits[valid], target[valid]), or ignore_index.",
    ),
    Entry(
        "largest of nothing but -inf",
        LARGEST,
        _only_masked,
        lambda b: (
            f"{b.op} looks for the largest where every element has been masked with -inf{at(b)}, and so returns"
            f" -inf{_carried(b)}."
        ),
        "Leave at least one element valid in each row, or leave such rows out: x[valid.any(-1)]. A fill with a large"
        " finite number such as -1e4 keeps the result finite.",
    ),
    Entry(
        "mask in a mean",
        MEANS,
        _passes,
        lambda b: (
            f"{b.op} takes in elements that were filled with an infinity on purpose, as a mask or padding{at(b)}"
            f"{_carried(b)}."
        ),
        "Keep them out: index the valid elements first, x[valid].mean(), or fill with 0 and divide by the number of"
        " valid ones with clamp(min=1). A fill with -inf belongs right before a softmax.",
    ),
    Entry(
        "mask in a result",
        ops(""),
        _passes,
        lambda b: (
            f"An infinity that was written on purpose, as a mask or padding, reaches the result in {b.op}{at(b)}"
            f"{_carried(b)}."
        ),
        "Keep it out of the result: index the valid elements before this operation, or write a finite number in place"
        " of the infinity. A fill with -inf belongs right before a softmax, which makes a weight of 0 of it.",
    ),
)

DELIBERATE_DERIVATIVES = (
    Entry(
        "mask in a gradient",
        ops(""),
        _passes,
        lambda b: (
            f"An infinity that was written on purpose, as a mask, reaches a gradient in the derivative of"
            f" {b.op}{at(b)}{_carried(b)}."
        ),
        "Multiply by no tensor that holds infinities: the derivative does too. Add a mask of -inf right before a"
        " softmax and nowhere else, and give everything else a finite number.",
    ),
)
