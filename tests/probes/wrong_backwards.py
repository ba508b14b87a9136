"""All wrong backwards, by family."""

from __future__ import annotations

from tests.probes import wrong_arithmetic, wrong_calculus, wrong_indices, wrong_norms, wrong_state
from tests.probes.wrong_backward import WrongBackward

__all__ = ["WRONG_BACKWARDS", "WrongBackward"]

FAMILIES = (wrong_arithmetic, wrong_calculus, wrong_norms, wrong_indices, wrong_state)
WRONG_BACKWARDS: tuple[WrongBackward, ...] = tuple(case for family in FAMILIES for case in family.CASES)
