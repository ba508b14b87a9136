"""Running rules over a sequence of records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradwatch.detectors.panel import Panel
from gradwatch.detectors.selection import select

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradwatch.records import Finding


def findings(code: str, records: Iterable[Any]) -> list[Finding]:
    """What one rule, with its own thresholds, says of a sequence."""
    panel = Panel(select([code]))
    return [finding for record in records for finding in panel.observe(record)]


def course(code: str, records: Iterable[Any]) -> list[tuple[int, str]]:
    """At which step it says what."""
    return [(finding.step, finding.status) for finding in findings(code, records)]
