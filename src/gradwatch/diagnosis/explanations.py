"""The sentences of an incident: what happened, and what to change. All wording of incidents is here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from gradwatch.diagnosis.evidence import first_seen

if TYPE_CHECKING:
    from gradwatch.diagnosis.evidence import Evidence
    from gradwatch.records import TensorSummary

NAMES_SHOWN = 3


class Text(NamedTuple):
    """What happened, and what to change."""

    explanation: str
    advice: str


def explain(evidence: Evidence) -> Text:
    """Return explanation and advice for the thing that showed the non-finite value first."""
    return {
        "optimizer": _optimizer,
        "parameter": _parameter,
        "batch": _batch,
        "buffer": _buffer,
        "loss": _loss,
        "gradient": _gradient,
    }[first_seen(evidence)](evidence)


def explain_from_afar(ranks: list[int]) -> Text:
    """Return explanation and advice for a rank on which nothing was born."""
    where = f"rank{'s' * (len(ranks) > 1)} {names([str(rank) for rank in ranks])}"
    return Text(
        f"The non-finite value was born on {where}. Here only gradients can be bad, by the all-reduce between the"
        " ranks; this rank takes the same decision.",
        f"Look at the incident that {where} wrote at this step.",
    )


def _optimizer(evidence: Evidence) -> Text:
    return Text(
        f"The optimizer made {names(evidence.optimizer)} non-finite; loss and gradients of that step were finite.",
        "Lower the learning rate or clip the gradients; keep Adam's moments in float32 (in float16 its eps of 1e-8"
        " rounds to zero), and never set eps to 0.",
    )


def _parameter(evidence: Evidence) -> Text:
    return Text(
        f"{names(evidence.parameters)} held non-finite values before this step's forward pass, so no operation of the"
        " step is to blame: the step before it, or code that writes to the weights, left them there.",
        "Go back to the last checkpoint with finite weights. Look for code that writes to parameters outside the"
        " optimizer: weight averaging, re-initialisation, casts, or torch.empty without an initialisation.",
    )


def _batch(evidence: Evidence) -> Text:
    tensor, summary = evidence.batch[0]
    more = f" (and {names([name for name, _ in evidence.batch[1:]])})" if len(evidence.batch) > 1 else ""
    return Text(
        f"The batch itself is non-finite before the model sees it: {tensor}{more} has {counted(summary)}"
        f" among {math.prod(summary.shape)} elements, and the {_victim(evidence)} became non-finite with it.",
        "Find the sample and drop or repair it in the dataset. A division by a range or a standard deviation of zero"
        " during preprocessing is the usual source.",
    )


def _buffer(evidence: Evidence) -> Text:
    return Text(
        f"The buffer {names(evidence.buffers)} has become non-finite: it was finite when last looked at.",
        "Running statistics are spoilt by one non-finite or enormous batch and never recover: reset them or go back to"
        " a checkpoint, and look at the batches since the last record.",
    )


def _loss(evidence: Evidence) -> Text:
    gradients = (
        f"{len(evidence.gradients)} of {evidence.gradients_read} gradients are non-finite too."
        if evidence.gradients
        else "All gradients are finite: weights would not have been harmed by this step."
    )
    return Text(
        f"The loss is {evidence.losses[0]}, and batch, weights and buffers were finite before this step: an operation"
        f" of the forward pass made it. {gradients}",
        "Look for log, sqrt, exp or a division in the loss whose argument can be zero, negative or large, and for a"
        " mean over an empty selection.",
    )


def _gradient(evidence: Evidence) -> Text:
    return Text(
        f"The loss is finite, but {len(evidence.gradients)} of {evidence.gradients_read} gradients are not"
        f" ({names(evidence.gradients)}): the value was born in the backward pass.",
        "Look for an operation with an infinite slope where it is used: sqrt or norm at zero, a fractional power at"
        " zero, acos at ±1, or torch.where around one of these (mask its input, not its output).",
    )


def names(items: list[str]) -> str:
    """Return ``a, b, c and 12 more``."""
    shown, rest = items[:NAMES_SHOWN], len(items) - NAMES_SHOWN
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def counted(summary: TensorSummary) -> str:
    """Return ``3 NaN and 1 +inf``."""
    kinds = ((summary.nan, "NaN"), (summary.posinf, "+inf"), (summary.neginf, "-inf"))
    return " and ".join(f"{count} {kind}" for count, kind in kinds if count)


def _victim(evidence: Evidence) -> str:
    return "loss" if evidence.losses else "gradient"
