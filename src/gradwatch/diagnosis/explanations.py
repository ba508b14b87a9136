"""The sentences of an incident: what happened, and what to change. All wording of incidents is here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradwatch.diagnosis.evidence import affected, first_seen
from gradwatch.diagnosis.memory import Leaf
from gradwatch.diagnosis.wording import Text, gradients

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.diagnosis.evidence import Evidence
    from gradwatch.diagnosis.trace import Record
    from gradwatch.records import TensorSummary

NAMES_SHOWN = 3
# Where Adam, RMSprop, Adadelta and Adagrad sum up squares of gradients.
SQUARES = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"})


def explain(evidence: Evidence) -> Text:
    """Return explanation and advice for the thing that showed the non-finite value first.

    The catalogue has those for an operation.
    """
    leaf = _leaf(evidence)
    if leaf is not None and leaf.kind == "unknown":
        return _constant(leaf, evidence)
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
        f"The non-finite value was born on {where}. Here loss or gradients can be bad only by what the ranks"
        " exchange, as in the all-reduce of the gradients; this rank takes the same decision.",
        f"Look at the incident that {where} wrote at this step.",
    )


def _optimizer(evidence: Evidence) -> Text:
    if evidence.optimizer and all(name.rpartition(".")[2] in SQUARES for name in evidence.optimizer):
        return _square(evidence)
    return Text(
        f"The optimizer made {names(evidence.optimizer)} non-finite; loss and gradients of that step were finite."
        f"{_update(evidence)}",
        "Lower the learning rate or clip the gradients; keep Adam's moments in float32 (in float16 its eps of 1e-8"
        " rounds to zero), and never set eps to 0.",
    )


def _square(evidence: Evidence) -> Text:
    """A mean of squares alone became bad: a NaN or infinite gradient would be in the other moments too."""
    return Text(
        f"The square of a gradient overflowed in the optimizer: {names(evidence.optimizer)} became infinite, although"
        " loss and gradients of that step were finite. It takes a gradient beyond about 1e19 in float32 and bfloat16,"
        " beyond 256 in float16. Updates are divided by it: the weights there never move again.",
        "Find out which step had so large a gradient: clip by value or norm, lower the learning rate, and unscale"
        " before the step if the loss is scaled. An infinite moment stays: go back to a checkpoint from before, or"
        " reset the optimizer's state.",
    )


def _update(evidence: Evidence) -> str:
    """Say what a repetition of the update has shown."""
    update = evidence.update
    if update is None:
        return ""
    settings = ", ".join(f"{name} {value:g}" for name, value in update.settings.items())
    made = f" its {update.birth.identity.op} gives {_made(update.birth)}" if update.birth else " the weights become so"
    return f" Repeated with a gradient of the same norm, or of 0,{made} ({update.optimizer}, {settings})."


def _made(birth: Record) -> str:
    return "NaN" if birth.special.nan else "an infinity"


def _parameter(evidence: Evidence) -> Text:
    return Text(
        f"{names(affected(evidence))} held non-finite values before this step's forward pass, so no operation of the"
        f" step is to blame: {_since(evidence, evidence.parameters)}",
        "Go back to the last checkpoint with finite weights. Look for code that writes to parameters outside the"
        " optimizer: weight averaging, re-initialisation, casts, or torch.empty without an initialisation.",
    )


def _batch(evidence: Evidence) -> Text:
    leaf = _leaf(evidence)
    tensor, summary = evidence.batch[0] if leaf is None else (leaf.name or "batch", leaf.summary)
    others = [name for name, _ in evidence.batch if name != tensor]
    more = f" (and {names(others)})" if others else ""
    first = f", the first at {leaf.bad_index}" if leaf is not None and leaf.bad_index else ""
    return Text(
        f"The batch itself is non-finite before the model sees it: {tensor}{more} has {counted(summary)}"
        f" among {math.prod(summary.shape)} elements{first}, and the {_victim(evidence)} became non-finite with it."
        f"{_not_run_again(evidence)}",
        "Find the sample and drop or repair it in the dataset. A division by a range or a standard deviation of zero"
        " during preprocessing is the usual source.",
    )


def _buffer(evidence: Evidence) -> Text:
    known = evidence.finite_at is not None or _leaf(evidence) is not None
    since = _since(evidence, evidence.buffers) if known else "it was finite when last looked at."
    return Text(
        f"The buffer {names(affected(evidence))} has become non-finite: {since}",
        "Running statistics are spoilt by one non-finite or enormous batch and never recover: reset them or go back to"
        " a checkpoint, and look at the batches since the last record.",
    )


def _loss(evidence: Evidence) -> Text:
    gradients = (
        f"{_gradients(evidence).capitalize()} non-finite too."
        if evidence.gradients
        else "All gradients are finite: weights would not have been harmed by this step."
    )
    return Text(
        f"The loss is {evidence.losses[0]}, and batch, weights and buffers were finite before this step: an operation"
        f" of the forward pass made it. {gradients}{_untraced(evidence)}",
        _TRANSIENT if _came_out_finite(evidence) else _FORWARD,
    )


def _gradient(evidence: Evidence) -> Text:
    return Text(
        f"The loss is finite, but {_gradients(evidence)} not"
        f" ({names(evidence.gradients)}): the value was born in the backward pass.{_untraced(evidence)}",
        _TRANSIENT if _came_out_finite(evidence) else _BACKWARD,
    )


_FORWARD = (
    "Look for log, sqrt, exp or a division in the loss whose argument can be zero, negative or large, and for a mean"
    " over an empty selection."
)
_BACKWARD = (
    "Look for an operation with an infinite slope where it is used: sqrt or norm at zero, a fractional power at zero,"
    " acos at ±1, or torch.where around one of these (mask its input, not its output)."
)
_TRANSIENT = (
    "Look for what the step depends on besides its inputs: a callback that changes gradients, a file or a global,"
    " memory that is not initialised, a race between streams; if it comes back at random places, test the hardware."
)


def _constant(leaf: Leaf, evidence: Evidence) -> Text:
    return Text(
        f"A tensor of shape {leaf.summary.shape} that is neither in the batch nor a weight or buffer held"
        f" {counted(leaf.summary)} before the step, and the {_victim(evidence)} became non-finite with it.",
        "Look for a constant that the step uses: an attribute of the module, a global, or data read outside the loader."
        " Register it as a buffer, and it will be watched and named.",
    )


def _since(evidence: Evidence, born: Sequence[str]) -> str:
    """Say since when the state has been bad, from what the records know."""
    leaf = _leaf(evidence)
    if leaf is not None and leaf.name not in born:
        return "it has been so since before the first step, from the initialisation or a checkpoint."
    seen = f"; all was finite at step {evidence.finite_at}" if evidence.finite_at is not None else ""
    return f"the step before it, or code that writes to the {_state(evidence)}, left them there{seen}."


def _state(evidence: Evidence) -> str:
    return "buffers" if first_seen(evidence) == "buffer" else "weights"


def _leaf(evidence: Evidence) -> Leaf | None:
    root = evidence.traced.root if evidence.traced else None
    return root if isinstance(root, Leaf) else None


def _came_out_finite(evidence: Evidence) -> bool:
    return evidence.traced is not None and evidence.traced.came_out_finite


def _untraced(evidence: Evidence) -> str:
    """Say why no operation is named."""
    if _came_out_finite(evidence):
        compiled = evidence.traced is not None and evidence.traced.compiled
        eager = ", compiled parts run eagerly: a fused kernel may overflow where they do not" if compiled else ""
        return f" Run again twice with the same weights, batch and random states, the step came out finite{eager}."
    reason = evidence.traced.reason if evidence.traced else None
    return f" The operation is not known: {reason}." if reason else ""


def _not_run_again(evidence: Evidence) -> str:
    reason = evidence.traced.reason if evidence.traced else None
    return f" That is not proven by running the step again: {reason}." if reason else ""


def names(items: list[str]) -> str:
    """Return ``a, b, c and 12 more``."""
    shown, rest = items[:NAMES_SHOWN], len(items) - NAMES_SHOWN
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


def counted(summary: TensorSummary) -> str:
    """Return ``3 NaN and 1 +inf``."""
    kinds = ((summary.nan, "NaN"), (summary.posinf, "+inf"), (summary.neginf, "-inf"))
    return " and ".join(f"{count} {kind}" for count, kind in kinds if count)


def _gradients(evidence: Evidence) -> str:
    return gradients(len(evidence.gradients), evidence.gradients_read)


def _victim(evidence: Evidence) -> str:
    return "loss" if evidence.losses else "gradient"
