"""Which rows of a batch are guilty at a birth: those of the output, or of the inputs where the output is their sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.diagnosis.summary import bad_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gradwatch.diagnosis.memory import Read


def guilty_rows(op: str, reads: Sequence[Read], output: Tensor) -> tuple[list[int], int | None]:
    """Return the guilty positions along dimension 0, and that dimension's extent; None where there is no such thing."""
    if output.dim():
        return bad_rows(output), output.shape[0]
    if op == "nll_loss" and len(reads) > 1:
        return _of_targets(reads[0].before, reads[1].before)
    return [], None


def _of_targets(log_probabilities: Tensor, targets: Tensor) -> tuple[list[int], int | None]:
    """Return the rows whose target class has a non-finite logarithm; an ignored target is negative as a rule."""
    if log_probabilities.dim() != 2 or targets.dim() != 1:  # noqa: PLR2004 - one row a sample
        return [], None
    classes = targets.clamp(0, log_probabilities.shape[1] - 1)
    picked = log_probabilities.gather(1, classes[:, None])[:, 0]
    return bad_rows(picked.masked_fill(targets != classes, 0.0)), len(targets)
