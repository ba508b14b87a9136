"""What the catalogue says of a rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gradwatch.records import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A number that a user may change. ``source``: who uses it, or the reasoning behind it."""

    name: str
    value: float
    meaning: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One finding that gradwatch can make.

    ``formula`` defines the sign, in the names of the thresholds; ``message`` has places for the evidence and the
    ``{layer}``. A sign opens a finding after ``records`` log steps in a row that span ``steps`` optimizer steps, and
    the finding closes after ``quiet`` log steps on which the sign shows at less than ``release`` times its threshold.
    ``silent_when`` says where the rule does not apply, ``quantity`` what its picture draws. ``looks_at``: each log
    step, gradient check or validation; "" stands for once, at the start of a run.
    """

    code: str
    severity: Severity
    meaning: str
    formula: str
    message: str
    causes: tuple[str, ...]
    advice: str
    thresholds: tuple[Threshold, ...] = ()
    records: int = 1
    steps: int = 0
    quiet: int = 3
    release: float = 0.5
    silent_when: str = ""
    quantity: str = ""
    looks_at: str = "log step"

    @property
    def limits(self) -> Mapping[str, float]:
        """The thresholds by name, with those of persistence."""
        return {
            **{threshold.name: threshold.value for threshold in self.thresholds},
            "records": self.records,
            "steps": self.steps,
            "quiet": self.quiet,
            "release": self.release,
        }
