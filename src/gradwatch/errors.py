"""The errors that gradwatch raises on purpose. Nothing here imports torch, so a reader of logs can catch them too."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradwatch.records import GradientCheckReport, Incident


class NonFiniteError(RuntimeError):
    """A loss, gradient, weight, buffer or optimizer state became NaN or infinite, and the run was told to raise.

    Args:
        message: what was seen, where, and what to change.
        incident: the same in fields, as it stands in ``incident.json``.
    """

    def __init__(self, message: str, incident: Incident) -> None:
        super().__init__(message)
        self.incident = incident

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[str, Incident]]:
        """Keep the incident: by default an exception is rebuilt from its message alone, which fails here."""
        return type(self), (str(self), self.incident)


class GradientMismatchError(AssertionError):
    """Autograd and finite differences disagree.

    Args:
        message: the table of the check.
        report: the same in fields.
    """

    def __init__(self, message: str, report: GradientCheckReport) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[type[GradientMismatchError], tuple[str, GradientCheckReport]]:
        """Keep the report, as ``NonFiniteError`` keeps its incident."""
        return type(self), (str(self), self.report)
