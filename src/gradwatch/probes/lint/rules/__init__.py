"""The checks of the lint, by the operation at which each of them looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.probes.lint.rules import (
    angles,
    divisions,
    exponentials,
    logarithms,
    losses,
    masks,
    roots,
    selections,
    statistics,
)

if TYPE_CHECKING:
    from gradwatch.probes.lint.rules.found import Check

_PARTS = (losses, logarithms, exponentials, divisions, roots, angles, statistics, masks, selections)
CHECKS: dict[str, tuple[Check, ...]] = {
    op: tuple(check for part in _PARTS for check in part.CHECKS.get(op, ()))
    for op in sorted({op for part in _PARTS for op in part.CHECKS})
}
