"""What the health rules say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from gradwatch.records.shared import Event

Severity = Literal["info", "warning", "error"]
FindingStatus = Literal["opened", "updated", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Event):
    """Something a rule noticed, with its evidence and what to try."""

    type: ClassVar[str] = "finding"

    code: str
    status: FindingStatus
    since_step: int
    severity: Severity
    layer: str | None
    message: str
    evidence: dict[str, Any]
    advice: str
