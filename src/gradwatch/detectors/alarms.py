"""Rules of a user's own: a pair of plain functions that say what is wrong at a log step.

``init()`` returns a state, ``update(state, observation)`` returns the next state and a list of ``Alarm``. Opening,
updating and closing of findings, and the state in checkpoints, are taken care of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gradwatch.detectors.catalogue.rule import Rule
from gradwatch.detectors.detector import Detector, Reading, Sign
from gradwatch.detectors.episodes import SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gradwatch.detectors.detector import Limits
    from gradwatch.records import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Something that is wrong at this log step, of one layer or of the run as a whole."""

    message: str
    layer: str | None = None
    severity: Severity = "warning"
    evidence: dict[str, Any] = field(default_factory=dict)
    advice: str = ""

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"Alarm(severity={self.severity!r}): expected one of {', '.join(SEVERITIES)}")
        for name in ("message", "advice", "layer"):
            value: object = getattr(self, name)
            if not (isinstance(value, str) or (name == "layer" and value is None)):
                raise TypeError(f"Alarm({name}={value!r}): expected a string")


class Own(NamedTuple):
    """The state of a user's rule, and the subjects of which it has raised an alarm at any time."""

    state: Any
    raised: tuple[str | None, ...] = ()


def own_detector(
    code: str, init: Callable[[], Any], update: Callable[[Any, Any], tuple[Any, Iterable[Alarm]]]
) -> Detector:
    """Return the detector that a pair of plain functions makes."""

    def read(own: Own, seen: Any, _limits: Limits) -> tuple[Own, Reading]:
        state, raised = update(own.state, seen)
        alarms = {alarm.layer: alarm for alarm in raised}
        known = tuple(dict.fromkeys([*own.raised, *alarms]))
        return Own(state, known), alarms_reading(alarms, known)

    rule = Rule(
        code=code, severity="warning", meaning="a rule of your own", formula="", message="", causes=(), advice=""
    )
    return Detector(rule=rule, init=lambda: Own(init()), update=read, limits=rule.limits)


def alarms_reading(alarms: dict[str | None, Alarm], known: Sequence[str | None]) -> Reading:
    """Return the reading of alarms by subject; a known subject without an alarm shows nothing."""

    def explain(i: int) -> Sign:
        alarm = alarms[known[i]]
        return Sign(alarm.evidence, severity=alarm.severity, message=alarm.message, advice=alarm.advice)

    return Reading(np.array([float(subject in alarms) for subject in known]), known, explain)
