"""Counts that continue over a resume."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(slots=True)
class Counters:
    """Totals since the very first step of a run and of those it resumes.

    ``nonfinite`` counts optimizer steps with a non-finite loss or gradient, the GradScaler's routine overflows
    included; ``overflows`` counts those alone.
    """

    steps: int = 0
    clipped: int = 0
    skipped: int = 0
    nonfinite: int = 0
    overflows: int = 0
    incidents: int = 0

    @property
    def clip_rate(self) -> float:
        """The share of optimizer steps that were clipped."""
        return self.clipped / self.steps if self.steps else 0.0

    @property
    def trouble(self) -> tuple[int, int, int]:
        """The counts that a user wants to hear of at once."""
        return (self.nonfinite, self.skipped, self.incidents)

    def count(self, *, clipped: bool, skipped: bool, nonfinite: bool, again: bool = False) -> None:
        """Add one optimizer step; ``again``: it has been counted as a good one, and was spoilt after that."""
        self.steps += not again
        self.clipped += clipped
        self.skipped += skipped
        self.nonfinite += nonfinite

    def state_dict(self) -> dict[str, int]:
        """Return the counts as plain integers."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the counts that ``state`` has; an older or newer one may have others."""
        for field in fields(self):
            setattr(self, field.name, int(state.get(field.name, 0)))
