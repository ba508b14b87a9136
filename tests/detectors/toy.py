"""A rule on nothing but given strengths, and the records that carry them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gradwatch.detectors.catalogue.rule import Rule
from gradwatch.detectors.detector import Detector, Reading, Sign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.records import Severity


class Given(NamedTuple):
    """A record of one number a layer."""

    step: int
    values: Sequence[float]
    names: Sequence[str | None] = (None,)
    severity: Severity | None = None
    time: float = 1.5
    epoch: int = 2
    batch_idx: int | None = 3
    rank: int = 0


def toy(*, severity: Severity = "warning", records: int = 1, steps: int = 0, quiet: int = 2) -> Detector:
    rule = Rule(
        code="toy",
        severity=severity,
        meaning="a value is large",
        formula="value ≥ 1",
        message="{layer} has {value:.3g} since step {since}.",
        causes=(),
        advice="Make it small.",
        records=records,
        steps=steps,
        quiet=quiet,
    )

    def update(state: tuple[()], given: Given, _limits: Any) -> tuple[tuple[()], Reading]:
        def explain(i: int) -> Sign:
            return Sign({"value": given.values[i]}, severity=given.severity)

        return state, Reading(np.array(given.values, dtype=float), given.names, explain)

    return Detector(rule=rule, init=tuple, update=update, limits=rule.limits, reads=Given)
